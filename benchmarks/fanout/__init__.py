"""`make bench-fanout`: a model to a thousand agents, pulled as ours do, beside plain pushing."""
