"""The fault catalogue: what can be done to a cluster, simulated or real, by name."""
