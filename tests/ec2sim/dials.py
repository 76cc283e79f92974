"""What every part of the simulator turns on: the behaviour in force, the time, the dice."""

from __future__ import annotations

from random import Random

from tests.ec2sim.clock import Clock
from tests.ec2sim.config import SimConfig, Span


class Dials:
    """Shared by all parts of one simulator.

    Attributes:
        config: the behaviour in force; replaced whole when it changes.
        clock: the time.
    """

    def __init__(self, config: SimConfig, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self._dice: dict[str, Random] = {}
        self._ids = self.dice("ids")

    def now(self) -> float:
        """Seconds since 1970."""
        return self.clock.now()

    def dice(self, name: str) -> Random:
        """A random generator for each purpose, so that one more draw here changes nothing elsewhere."""
        dice = self._dice.get(name)
        if dice is None:
            dice = self._dice[name] = Random(f"{self.config.seed}:{name}")
        return dice

    def draw(self, name: str, span: Span) -> float:
        """A time within a span."""
        low, high = span
        return low if low >= high else self.dice(name).uniform(low, high)

    def chance(self, name: str, share: float) -> bool:
        """Whether one of `share` happens."""
        return share > 0 and self.dice(name).random() < share

    def identifier(self, prefix: str) -> str:
        """A new resource id, 17 hex digits like EC2's."""
        return f"{prefix}-{self._ids.getrandbits(68):017x}"
