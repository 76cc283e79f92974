"""How much work a benchmark does, and how it reports its progress."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How much work.

    Attributes:
        few: tags of a small batch.
        many: tags of a large batch.
        requests: in the queue.
        crowds: requests of one namespace, beside which another's single one is launched.
        attacks: how many of the attacks of a hostile user.
        flood: names or requests of each attack, or a part of that.
        repeats: runs of what can be repeated in a short time.
        ups: single machines, one after the other.
        starts: of each command.
        idle_s: for how long it is measured what is used while nothing happens.
    """

    few: int = 200
    many: int = 1_000
    requests: int = 10_000
    crowds: tuple[int, ...] = (2_000, 20_000)
    attacks: int = 10
    flood: int = 100_000
    repeats: int = 3
    ups: int = 10
    starts: int = 15
    idle_s: float = 30.0


TINY = Sizes(few=6, many=12, requests=40, crowds=(40,), attacks=2, flood=1_000, repeats=1, ups=2, starts=1, idle_s=1.0)


class Run(msgspec.Struct, frozen=True):
    """The arguments of a benchmark.

    Attributes:
        sizes: how much to do.
        say: called with a line for each step.
    """

    sizes: Sizes
    say: Callable[[str], None]
