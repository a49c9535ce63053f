"""What Flower itself costs a node for an update, beside `benchmarks/delivery/agent_cost.py`."""
