"""How long it takes from a machine's sample to the PLC that reads the score."""
