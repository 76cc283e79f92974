"""What was refused of what clients write, summed: a flood of it writes a line a minute, not one for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

import structlog

from puter_worker.clock import Clock
from puter_worker.errors import fit_for_users
from puter_worker.metrics import NO_METRICS, Metrics

_log = structlog.get_logger("puter.intake")
EVERY_S = 60.0
# More namespaces than this in a minute are summed under one name, and a line names no more reasons than this.
MOST_NAMESPACES = 1_000
MOST_REASONS = 5
OTHERS = "(others)"
_NONE: Mapping[str, str] = MappingProxyType({})


class Refused:
    """Sums refusals by namespace and reason.

    The first of a namespace is logged at once, what follows within a minute in one line at its end. If the worker is
    killed, what was not logged is lost; the rows of batches have their reasons anyway.
    """

    def __init__(self, clock: Clock, metrics: Metrics = NO_METRICS) -> None:
        self._clock = clock
        self._metrics = metrics
        self._since: dict[str, float] = {}
        self._sums: dict[str, Counter[str]] = {}
        self._examples: dict[str, dict[str, str]] = {}

    def add(self, namespace: str, reasons: Mapping[str, int], examples: Mapping[str, str] = _NONE) -> None:
        """Note how often something was refused of a namespace, by reason.

        `examples`: a whole sentence for each reason that has some; the first of those that a line sums is in it.
        """
        if not reasons:
            return
        for reason, count in reasons.items():
            self._metrics.refused(namespace, reason, count)
        if namespace not in self._since and len(self._since) >= MOST_NAMESPACES:
            namespace = OTHERS
        if namespace in self._since:
            sums = self._sums.setdefault(namespace, Counter())
            kept = self._examples.setdefault(namespace, {})
            for reason, count in reasons.items():
                sums[reason if reason in sums or len(sums) < MOST_NAMESPACES else OTHERS] += count
                if reason in examples and reason in sums and reason not in kept:
                    kept[reason] = fit_for_users(examples[reason])
        else:
            self._since[namespace] = self._clock.monotonic()
            _tell(namespace, reasons, {reason: fit_for_users(text) for reason, text in examples.items()})

    def tell_due(self) -> None:
        """Log the sums whose minute is over."""
        now = self._clock.monotonic()
        for namespace in [name for name, since in self._since.items() if now - since >= EVERY_S]:
            sums, examples = self._sums.pop(namespace, None), self._examples.pop(namespace, {})
            if sums:
                self._since[namespace] = now
                _tell(namespace, sums, examples)
            else:
                del self._since[namespace]


def _tell(namespace: str, reasons: Mapping[str, int], examples: Mapping[str, str]) -> None:
    most = dict(Counter(reasons).most_common(MOST_REASONS))
    told = {reason: examples[reason] for reason in most if reason in examples}
    also = {"examples": told} if told else {}
    _log.warning("requests.refused", namespace=namespace, count=sum(reasons.values()), why=most, **also)
