"""Faults of disk and clock, put under a real process: full disks, clock jumps, cut power."""
