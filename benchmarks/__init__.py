"""What Puter's promises of speed come to: `python -m benchmarks`, or `make bench`."""
