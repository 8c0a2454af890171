"""Chaos: a bounded random run of faults against real processes, under a workload that is checked.

What `sextet sim` does in virtual time, done to a cluster that runs: faults drawn from a seed
(`schedule`), clients over PostgreSQL's wire that write down what they were told (`clients`,
`recorder`), faults carried out and healed (`driver`), reads of everything at the end (`final`), and
the simulator's own checkers over the history (`judge`). `run` is all of it in order.

The schedule is the seed's and always the same. What it meets is not: real processes never repeat
exactly. A seed that fails here is a hint where to look with the simulator, which does repeat.
"""
