"""Secure aggregation, measured: exact sums, what they cost, what they do to quality."""
