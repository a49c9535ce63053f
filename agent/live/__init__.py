"""Live samples of the configured sources, for a person at a gateway."""
