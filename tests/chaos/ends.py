"""What must be known of workloads and orders at the end of a run: what their machines have said, once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from puter_client.contract.key import PuterKey
from puter_client.contract.order import OrderKind
from puter_client.contract.output import Output
from puter_client.contract.phase import Phase
from puter_client.contract.record import Event, EventKind, Record
from puter_client.contract.result import Result
from puter_client.store import names as public
from puter_worker.ec2.tags import EXPIRES_AT, expiry, key_of
from tests.agents import End
from tests.chaos.finding import Finding
from tests.chaos.places import places_of
from tests.chaos.workloads import EXTENDED, Fate
from tests.ec2sim.reports import Seen

Run = tuple[int, str | None, str, int | None]
"""Generation, instance, result and exit code of one run of a workload that has ended."""


def is_met(record: Record, fate: Fate) -> bool:
    """Whether everything has come about that is to become of a key."""
    if fate.lives:
        return record.phase is Phase.RUNNING and record.labelled and (not fate.ends or record.result is not None)
    if record.phase is Phase.CANCELLED:
        return fate.stops
    return record.phase is Phase.TERMINATED and record.result is not None


def judge_workloads(
    client: Any,
    records: Mapping[PuterKey, Record | None],
    fates: Mapping[PuterKey, Fate],
    instances: Sequence[Seen],
    ended: Mapping[str, End],
    expires_at: int,
) -> Iterable[Finding]:
    """All that is not known of workloads, or known wrongly, or not as it was ordered.

    Args:
        client: of Redis.
        records: of all keys.
        fates: of all keys.
        instances: all that were ever launched.
        ended: how their workloads ended, by instance id.
        expires_at: when machines end that were ordered to end later.
    """
    machines: dict[PuterKey, dict[int, list[Seen]]] = defaultdict(lambda: defaultdict(list))
    places = places_of(instances)
    for seen in instances:
        if (told := key_of(seen.tags, places[seen.id])) is not None:
            machines[told[0]][told[1]].append(seen)
    for key, record in records.items():
        if record is None:
            continue  # the verdict has a word for it
        yield from _runs(key, record, machines[key], ended)
        yield from _fate(key, record, fates[key])
        yield from _events(client, key, record)
        yield from _output(client, key, record, ended)
        if fates[key] == EXTENDED:
            yield from _extended(key, record, machines[key], expires_at)


def _runs(
    key: PuterKey, record: Record, machines: Mapping[int, Sequence[Seen]], ended: Mapping[str, End]
) -> Iterable[Finding]:
    """Each generation had one machine, and of each that has ended the record tells what the machine said."""
    for generation, seen in machines.items():
        if len(seen) != 1:
            yield Finding(f"generation {generation} ran on {len(seen)} machines: {[s.id for s in seen]}", key)
    reached = record.generation - (record.phase is Phase.CANCELLED)
    if sorted(machines) != list(range(1, reached + 1)):
        yield Finding(f"had machines of generations {sorted(machines)}, its record is at {record.generation}", key)
    true: list[Run] = []
    for generation, seen in sorted(machines.items()):
        for one in seen:
            if (end := ended.get(one.id)) is not None:
                true.append((generation, one.id, end.result, end.exit_code))
            elif one.state == "terminated":
                yield Finding(f"{one.id} has ended, and nobody has ended it", key)
    if (told := told_runs(record)) != true:
        yield Finding(f"its record tells of {told}, its machines of {true}", key)


def told_runs(record: Record) -> list[Run]:
    """The runs that a record tells of."""
    runs: list[Run] = [(one.generation, one.instance_id, one.result, one.exit_code) for one in record.attempts]
    if record.result is not None:
        runs.append((record.generation, record.instance_id, record.result, record.exit_code))
    return runs


def _fate(key: PuterKey, record: Record, fate: Fate) -> Iterable[Finding]:
    """The workload has ended, and ran again, as it was to."""
    if not is_met(record, fate):
        yield Finding(f"its record says {record.phase.value} ({record.reason}), result {record.result}", key)
    results = [result for _, _, result, _ in told_runs(record)]
    wanted = [end.result for end in fate.ends]
    if fate.stops:
        # The order came at any time: in the last run, or before the next one.
        before = results[:-1] if results[-1:] == [Result.STOPPED] else results
        right = before == wanted[: len(before)]
    else:
        right = results == wanted
    if not right:
        yield Finding(f"its runs ended {[*map(str, results)]}, not {[*map(str, wanted)]}", key)


def _events(client: Any, key: PuterKey, record: Record) -> Iterable[Finding]:
    """The timeline tells of each end once."""
    raws = client.lrange(public.events(key), 0, -1)
    events = [msgspec.json.decode(raw, type=Event) for raw in raws]
    # That of a run after which another one follows is of the next generation.
    told = Counter(
        event.generation - (event.kind is EventKind.WORKLOAD_RETRIED)
        for event in events
        if event.kind in {EventKind.WORKLOAD_FINISHED, EventKind.WORKLOAD_RETRIED}
    )
    wanted = Counter(generation for generation, *_ in told_runs(record))
    if told != wanted:
        yield Finding(f"its timeline tells of the ends of generations {dict(told)}, not {dict(wanted)}", key)


def _output(client: Any, key: PuterKey, record: Record, ended: Mapping[str, End]) -> Iterable[Finding]:
    """What the last run printed is kept as its machine said it."""
    end = ended.get(record.instance_id or "")
    if end is None or end.exit_code is None:
        return
    raw = client.get(public.output(key))
    kept = msgspec.json.decode(raw, type=Output) if raw else None
    if kept is None or (kept.generation, kept.text) != (record.generation, end.output):
        yield Finding(f"its output is {kept}, not {end.output!r} of generation {record.generation}", key)


def _extended(
    key: PuterKey, record: Record, machines: Mapping[int, Sequence[Seen]], expires_at: int
) -> Iterable[Finding]:
    """The machine has its new end in its tags, and its record tells of it."""
    order = record.order
    if order is None or order.kind is not OrderKind.EXTEND or order.sent_at is None:
        yield Finding(f"its order is {order}", key)
    if record.expires_at != expires_at:
        yield Finding(f"its record says it ends at {record.expires_at}, not {expires_at}", key)
    for seen in machines.get(record.generation, ()):
        if seen.tags.get(EXPIRES_AT) != expiry(expires_at):
            yield Finding(f"{seen.id} is told to end at {seen.tags.get(EXPIRES_AT)}, not {expiry(expires_at)}", key)
