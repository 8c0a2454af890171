"""Commands of a real cluster, killed at many moments and steps: see `benchmarks.kills.__main__`."""
