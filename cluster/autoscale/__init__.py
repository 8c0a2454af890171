"""Replica auto-scaling: a process of its own that does what `sextet instance add|remove` does.

Not the supervisor, which speaks no gRPC and shares no failure with what it restarts; and not the control
plane, which does not start processes. It runs only while the layout has a policy.
"""
