"""The real world behind the ports: OS clock and disk, gRPC, processes; and the generated messages."""

import os

# What gRPC's C core would print to stderr, in a format of its own, we also get as errors. It reads
# this when it is first imported, and this package is imported before it.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
