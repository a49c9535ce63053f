"""Sources of samples: one module per protocol."""
