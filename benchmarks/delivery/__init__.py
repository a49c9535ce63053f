"""`make bench-delivery`: what delivery costs and how fast it is, each figure beside its limit."""
