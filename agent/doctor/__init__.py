"""Checks of a gateway: facts are read at the edge, judged by pure functions, told to a person."""
