"""What a machine's console showed when a client asked for it."""

from __future__ import annotations

from typing import Literal

import msgspec

MAX_CONSOLE = 16_384
"""Characters of a console that are published: the end of it. EC2 keeps 64 KB, most of it the kernel's boot."""


class Console(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a machine's console.

    Attributes:
        v: schema version.
        generation: of the machine.
        read_at: when a worker read it, seconds of Redis TIME.
        text: the end of what it showed, without end frames; anybody on the machine may have written it.
        problem: why it could not be read.
    """

    v: Literal[1] = 1
    generation: int
    read_at: float
    text: str = ""
    problem: str | None = None
