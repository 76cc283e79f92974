"""A worker's metrics as Prometheus reads them; docs/operations.md explains each.

Every label has a bounded number of values, whatever clients and EC2 do: what is beyond is summed under one name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from puter_client.contract.health import StageHealth
from puter_client.policy.rules import BY_NAME
from puter_worker.metrics import Metrics
from puter_worker.policy import POLICY
from puter_worker.store.overview import MOST_TARGETS, Overview

MOST_NAMESPACES = 300
MOST_RULES = 50
MOST_CODES = 200
MOST_STAGES = 500
OTHERS = "(others)"
_CALL_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_STAGE_S = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)
_MACHINES = (1, 2, 5, 10, 20, 50, 100)
# A refusal says which value it is about: that has no place in a label.
_SUBJECT = re.compile(r"[a-z][a-z_-]*(?= |:|$)")


class _Bounded:
    """At most so many different names; all others are one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._names: set[str] = set()

    def __call__(self, name: str) -> str:
        if name not in self._names and len(self._names) >= self._most:
            return OTHERS
        self._names.add(name)
        return name


class PrometheusMetrics(Metrics, Collector):
    """Counts what a worker does, and shows it with what waits in Redis."""

    def __init__(self, *, version: str) -> None:
        # They double the number of series, and nobody reads them.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._version = version
        self._registry = registry = CollectorRegistry()
        self._calls = Counter("puter_ec2_calls", "Calls to EC2.", ["action", "code"], registry=registry)
        self._call_s = Histogram(
            "puter_ec2_call_seconds", "How long calls to EC2 took.", ["action"], buckets=_CALL_S, registry=registry
        )
        self._waits = Counter("puter_pacer_waits", "Calls that waited for a token.", ["action"], registry=registry)
        self._wait_s = Counter(
            "puter_pacer_wait_seconds", "How long calls waited for a token.", ["action"], registry=registry
        )
        self._launches = Counter("puter_launches", "RunInstances calls by outcome.", ["outcome"], registry=registry)
        self._launched = Counter("puter_launched_machines", "Machines that EC2 launched.", registry=registry)
        self._group = Histogram(
            "puter_launch_group_machines", "Machines that one call asked for.", buckets=_MACHINES, registry=registry
        )
        self._runs = Counter("puter_stage_runs", "Runs of stages.", ["stage", "outcome"], registry=registry)
        self._run_s = Histogram(
            "puter_stage_seconds", "How long runs of stages took.", ["stage"], buckets=_STAGE_S, registry=registry
        )
        self._refused = Counter(
            "puter_refused_requests", "Requests that were refused.", ["namespace", "rule"], registry=registry
        )
        self._overdue: dict[str, int] = {}
        self._namespaces, self._rules, self._codes = (
            _Bounded(MOST_NAMESPACES),
            _Bounded(MOST_RULES),
            _Bounded(MOST_CODES),
        )
        self._overview: Overview | None = None
        self._ages: Mapping[str, float] = {}
        self._stages: Sequence[StageHealth] = ()
        self._failing_s: Mapping[str, float] = {}
        self._started_at = 0.0
        ProcessCollector(registry=registry)
        registry.register(self)

    def called(self, action: str, code: str, seconds: float) -> None:
        """See Metrics."""
        self._calls.labels(action, self._codes(code)).inc()
        self._call_s.labels(action).observe(seconds)

    def paced(self, action: str, seconds: float) -> None:
        """See Metrics."""
        self._waits.labels(action).inc()
        self._wait_s.labels(action).inc(seconds)

    def launched(self, outcome: str, asked_for: int, launched: int) -> None:
        """See Metrics."""
        self._launches.labels(outcome).inc()
        self._launched.inc(launched)
        self._group.observe(asked_for)

    def ran(self, stage: str, seconds: float, *, succeeded: bool) -> None:
        """See Metrics."""
        self._runs.labels(stage, "success" if succeeded else "error").inc()
        self._run_s.labels(stage).observe(seconds)

    def refused(self, namespace: str, why: str, count: int) -> None:
        """See Metrics."""
        self._refused.labels(self._namespaces(namespace), self._rules(rule_of(why))).inc(count)

    def overdue(self, target: str, machines: int) -> None:
        """See Metrics."""
        self._overdue[target] = machines

    def left(self, target: str) -> None:
        """See Metrics."""
        self._overdue.pop(target, None)

    def text(
        self,
        accept: str,
        *,
        overview: Overview | None,
        inbox_ages_s: Mapping[str, float],
        stages: Sequence[StageHealth],
        failing_s: Mapping[str, float],
        started_at: float,
    ) -> tuple[bytes, str]:
        """All metrics as text, and its content type.

        Args:
            accept: the formats that the reader accepts, as HTTP writes them.
            overview: what waits in Redis; None: it does not answer.
            inbox_ages_s: by namespace, for how long nothing was taken from its inbox.
            stages: the health of the worker's stages.
            failing_s: by AWS profile, for how long its credentials have failed; those that do not are missing.
            started_at: when the worker was started; seconds of Redis TIME.
        """
        self._overview, self._ages, self._stages, self._started_at = overview, inbox_ages_s, stages, started_at
        self._failing_s = failing_s
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        """What is not counted but is so now."""
        yield _by("version", "puter_worker_info", "This worker's version.", {self._version: 1.0})
        successes = GaugeMetricFamily(
            "puter_stage_last_success_timestamp_seconds",
            "When a stage last succeeded; the start of the worker if it never did.",
            labels=["stage", "target"],
        )
        for one in self._stages[:MOST_STAGES]:
            name, _, target = one.name.partition(" ")
            successes.add_metric([name, target], one.last_success_at or self._started_at)
        yield successes
        overdue = {target: float(count) for target, count in list(self._overdue.items())[:MOST_TARGETS]}
        yield _by("target", "puter_overdue_machines", "Machines that run after their end.", overdue)
        told = "For how long a profile's credentials have failed."
        yield _by("profile", "puter_credentials_failing_seconds", told, self._failing_s)
        yield GaugeMetricFamily("puter_redis_up", "Whether Redis answers.", float(self._overview is not None))
        if self._overview is not None:
            yield from _shown(self._overview, self._ages)


def rule_of(why: str) -> str:
    """What a refusal is about, without the value that was refused; of the policy, with the rule. Pure."""
    if why.startswith(POLICY):
        return why if why.removeprefix(POLICY) in BY_NAME else "other"
    subject, colon, _ = why.partition(":")
    found = _SUBJECT.match(subject)
    if colon and found:
        return found[0]
    return why if not colon and why.isascii() and len(why) <= 60 else "other"


def _by(label: str, name: str, told: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, told, labels=[label])
    for of, value in values.items():
        family.add_metric([of], value)
    return family


def _shown(overview: Overview, ages_s: Mapping[str, float]) -> Iterator[Metric]:
    yield GaugeMetricFamily("puter_redis_memory_bytes", "Memory that Redis uses.", overview.memory)
    yield GaugeMetricFamily("puter_redis_memory_limit_bytes", "Redis's maxmemory, 0 is none.", overview.memory_limit)
    yield GaugeMetricFamily("puter_workers", "Workers that have announced themselves within 30 s.", overview.workers)
    yield GaugeMetricFamily("puter_inboxes", "Namespaces in the ready set.", overview.inboxes)
    requests = {name: float(inbox.requests) for name, inbox in overview.waiting.items()}
    yield _by("namespace", "puter_inbox_requests", "Requests that no worker has taken.", requests)
    yield _by("namespace", "puter_inbox_age_seconds", "For how long nothing was taken.", ages_s)
    items = {name: float(queue.items) for name, queue in overview.queues.items()}
    yield _by("queue", "puter_queue_items", "What is to be done.", items)
    due = {name: queue.age_s for name, queue in overview.queues.items() if queue.age_s is not None}
    yield _by("queue", "puter_queue_age_seconds", "For how long the earliest item has been due.", due)
    yield _by("phase", "puter_keys", "Keys by phase.", _phases(overview))
    alive = {target: float(of.alive) for target, of in overview.machines.items()}
    yield _by("target", "puter_machines", "Machines that are alive.", alive)
    yield GaugeMetricFamily("puter_overview_partial", "Whether not all was read.", float(overview.partial))


def _phases(overview: Overview) -> dict[str, float]:
    """How many keys are in which phase; a machine that runs without a public address yet counts as pending."""
    starting = sum(of.starting for of in overview.machines.values())
    alive = sum(of.alive for of in overview.machines.values())
    return {
        "queued": overview.queued,
        "resolving": overview.resolving,
        "launching": overview.launching,
        "pending": starting,
        "running": alive - starting,
    }
