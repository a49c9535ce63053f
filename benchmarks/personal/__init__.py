"""Personal models, measured: every site is better off for taking part."""
