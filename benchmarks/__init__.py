"""Measurements that anyone can run: `make bench`. docs/measurements.md says what they found."""
