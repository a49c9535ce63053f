"""What an OPC UA value costs the agent's gateway, from the socket to rows (see __main__.py)."""
