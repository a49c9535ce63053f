"""The coordinator: takes updates in exactly once, folds them, judges and publishes models."""
