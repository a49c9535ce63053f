"""Flower's FedAvg on the splits and the model of the proof of concept; see README.md."""
