"""What an agent takes from its gateway: memory, processor, disk and link, beside Flower's node."""
