"""The operating systems whose images Puter finds by itself."""

from __future__ import annotations

from enum import StrEnum


class Os(StrEnum):
    """The Amazon Linux that is booted; `al2` ended its support on 2026-06-30."""

    AL2023 = "al2023"
    AL2 = "al2"
