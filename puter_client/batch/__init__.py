"""Batch files: YAML, JSONL and CSV to wishes."""
