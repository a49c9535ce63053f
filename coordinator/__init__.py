"""The coordinator: takes client updates in exactly once, folds them, judges and publishes models."""
