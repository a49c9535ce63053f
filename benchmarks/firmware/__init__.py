"""The firmware library: size, speed, and whether its kernels and slots hold what they promise."""
