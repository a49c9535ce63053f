"""What an update costs in bytes, and what it loses by costing less."""
