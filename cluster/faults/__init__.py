"""The fault catalogue: names, parameters and what each fault means, for the simulator and real processes."""
