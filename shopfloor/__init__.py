"""The simulated plant: milling machines that speak OPC UA, and links that fail.

Only this package, the tests and the benchmarks may see more than one of the programs.
"""
