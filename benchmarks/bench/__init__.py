"""Sextet and PostgreSQL with the same promise, on the same machine, in the same run: `make bench`."""
