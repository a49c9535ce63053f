"""The four jobs on real data, over the wire: `make bench-jobs`."""
