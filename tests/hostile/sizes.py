"""How much the attacks do, and from which seed: `make hostile` does all of it, `make test` a part."""

from __future__ import annotations

import os

SEED = int(os.environ.get("PUTER_HOSTILE_SEED", "20261127"))
IS_LONG = os.environ.get("PUTER_HOSTILE") == "long"


def size(part: int, whole: int) -> int:
    """How often something is tried."""
    return whole if IS_LONG else part
