"""Faults inside a real process: a network that swallows, a disk that fails, a clock that jumps.

What cannot be done to a process from outside is done here, at the ports (`engine.ports`): wrappers
around transport, disk, clock, steps and page store look at the installation's file of active faults
(`engine.faults.file`) and misbehave accordingly. Node code does not know of them. They are in place
only where an installation allows faults: its supervisor then names the file in SEXTET_FAULTS.

Invariants
- Without that variable nothing of this package runs: `engine.net.real` hands out the bare bindings.
- With it and without active faults every wrapper passes its call on, after one look at a value.
- A fault ends by itself at its time, also if whoever began it is gone: everyone reads the clock.
- A fault that happens once happens once, also if the node dies of it and comes back: what took
  effect is on the disk before it does (`engine.faults.watch`).

The names of kinds are those of `cluster.faults.catalogue`, which the simulator uses too.
"""
