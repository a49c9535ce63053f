"""The gateway's program: acquires, windows, learns, scores and delivers, one process per site."""
