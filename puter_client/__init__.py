"""Puter's client: wishes for EC2 machines, and what became of them."""
