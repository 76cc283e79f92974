"""Measurements of Puter's promises of speed: `python -m benchmarks`, or `make bench`."""
