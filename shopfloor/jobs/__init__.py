"""The four jobs, each learned over the wire by sites whose links fail: `journeyman demo --job`."""
