"""Puter's worker: grants wishes, each exactly once."""
