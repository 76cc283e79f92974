"""How to install what a command lacks: by the project's locked versions, never by a name from an index."""

from __future__ import annotations

import shlex
import sys
from typing import Literal

Lock = Literal["worker", "local", "demo"]


def how_to_install(lock: Lock) -> str:
    """The command, for this Python, that installs the packages in `requirements/<lock>.txt`."""
    pip = f"{shlex.quote(sys.executable)} -m pip install --require-hashes -r requirements/{lock}.txt"
    return f"run `{pip}` in the folder of Puter's source code"
