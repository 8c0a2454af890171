"""The real world behind the ports: OS clock and disk, gRPC, processes; and the generated messages."""

import os

# What gRPC's C core would print to stderr, in a format of its own, we also get as errors. It reads
# this when it is first imported, and this package is imported before it.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

# gRPC's event engine reads sockets in threads of its own, from where a message goes on to the thread
# that polls for asyncio and then to the loop. Without it the polling thread reads: one hop less for each
# message, a third of what it costs whom it reaches (docs/performance.md).
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
