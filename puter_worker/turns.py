"""Turns: an owner with few items does not wait for an owner with many. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from itertools import zip_longest
from typing import Any, TypeVar

T = TypeVar("T")
_NOBODY: Any = object()


def take_turns(of: Iterable[T], whose: Callable[[T], Hashable]) -> list[T]:
    """The same items, ordered so that owners take turns; the items of one owner keep their order."""
    queues: dict[Hashable, list[T]] = defaultdict(list)
    for one in of:
        queues[whose(one)].append(one)
    return [one for turn in zip_longest(*queues.values(), fillvalue=_NOBODY) for one in turn if one is not _NOBODY]
