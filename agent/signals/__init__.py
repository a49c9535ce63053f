"""From samples to rows: pure functions and small state machines, no I/O."""
