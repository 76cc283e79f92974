"""Puter's client: requests for EC2 machines, and what became of them."""

__version__ = "0.1.0"

__all__ = ["__version__"]
