"""Whether a machine can read its own tags from the metadata service while it runs, and so learns what they tell it.

EC2 shows changed tags to a running machine if its type is of the Nitro system and the option was set at its launch
("View tags for your EC2 instances using instance metadata"). The option cannot be set if a tag's key has a character
that the service does not take.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

IN_METADATA = re.compile(r"(?!\.\Z|\.\.\Z|_index\Z)[A-Za-z0-9+=.,_:@-]+")
"""Keys of tags that the metadata service shows ("Tag your Amazon EC2 resources", tags in instance metadata)."""

# "Amazon EC2 instance types": the families on the Xen hypervisor. AWS adds none: all new ones are of the Nitro system.
_XEN = frozenset(
    "c1 c3 c4 cc2 cr1 d2 f1 g2 g3 g3s h1 hi1 hs1 i2 i3 m1 m2 m3 m4 p2 p3 r3 r4 t1 t2 x1 x1e".split()  # noqa: SIM905
)


def is_nitro(instance_type: str) -> bool:
    """Whether a type is of the Nitro system; bare metal of a family of Xen counts as Xen."""
    return instance_type.partition(".")[0] not in _XEN


def are_shown(keys: Iterable[str]) -> bool:
    """Whether the metadata service takes all keys of a machine's tags."""
    return all(map(IN_METADATA.fullmatch, keys))


def why_not_read(instance_type: str, keys: Iterable[str]) -> str | None:
    """Why a machine does not learn of changes of its tags; None if it does."""
    if not is_nitro(instance_type):
        return f"{instance_type} is not of EC2's Nitro system"
    if not are_shown(keys):
        return "its aws_tags have a key with a space or another character that EC2's metadata service does not take"
    return None
