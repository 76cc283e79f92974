"""The last of what a workload printed."""

from __future__ import annotations

from typing import Literal

import msgspec


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a workload's output, as its machine's console showed it.

    Attributes:
        v: schema version.
        generation: of the machine that it ran on.
        text: the end of what it printed; anybody on the machine may have written it.
        total_bytes: how much it has printed in all.
    """

    v: Literal[1] = 1
    generation: int
    text: str
    total_bytes: int
