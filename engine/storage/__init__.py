"""The storage node: keeps segments, turns redo into pages, and talks to its peers (P17 §3.3)."""
