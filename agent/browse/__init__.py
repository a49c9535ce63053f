"""What an OPC UA server has, for a person who writes a configuration file."""
