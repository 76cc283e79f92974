"""What a worker counts while it works, for `puter worker --metrics`. Without that option nothing is counted."""

from __future__ import annotations


class Metrics:
    """What the parts of a worker tell of their work; this one forgets it. `puter_worker.prometheus` has the other."""

    def called(self, action: str, code: str, seconds: float) -> None:
        """A call was made to EC2. `code`: "ok", EC2's code of the refusal, or Puter's where EC2 gave none."""

    def paced(self, action: str, seconds: float) -> None:
        """A call waited so long for the rate limit; 0 if its stage does something else until tokens are there."""

    def launched(self, outcome: str, asked_for: int, launched: int) -> None:
        """A RunInstances call was made.

        Args:
            outcome: "launched", or how its refusal is handled (`puter_worker.errors.Handling`).
            asked_for: the machines that it asked for.
            launched: those that EC2 launched.
        """

    def ran(self, stage: str, seconds: float, *, succeeded: bool) -> None:
        """A stage ran once."""

    def refused(self, namespace: str, why: str, count: int) -> None:
        """So many requests of a namespace were refused for this reason."""

    def overdue(self, target: str, machines: int) -> None:
        """So many machines of a target that this worker leads still run after their end."""

    def left(self, target: str) -> None:
        """This worker does not lead the target any more."""


NO_METRICS = Metrics()
