"""The Flower app: plain FedAvg and a client that trains a small MLP with numpy."""
