"""Puter's worker: serves requests, each exactly once."""

from puter_client import __version__

__all__ = ["__version__"]
