"""A federation of one client that trains nothing."""
