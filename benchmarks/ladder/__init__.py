"""Servers that do a part of what Sextet does, each a process of its own (`benchmarks.ceiling`)."""
