"""What must hold at the end of a run, checked in EC2 and Redis themselves.

Redis is killed, and keeps what it has acknowledged; so nothing may be lost. Of a Redis that was emptied, results of
machines that have ended, outputs and orders that are in no tags yet could not be demanded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from puter_client.contract.batch import BatchRow
from puter_client.contract.key import PuterKey
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.contract.result import Result
from puter_client.store import names as public
from puter_worker.ec2.tags import LABELLED, MANAGED, MEMBER, decode_manifest, key_of, own_tags
from puter_worker.store import names
from puter_worker.store.arq_adapter import QUEUE
from tests.agents import End
from tests.chaos.clients import Submission
from tests.chaos.ends import is_met, judge_workloads
from tests.chaos.finding import Finding
from tests.chaos.places import places_of
from tests.chaos.workloads import Fate
from tests.ec2sim.ledger import Entry
from tests.ec2sim.reports import Seen

TARGET = "123456789012:us-east-1:"
GRANTED = {Outcome.CREATED, Outcome.EXISTING, Outcome.JOINED}
# What may stay for good: requests that nobody has taken, and what is to be done; at the end there is none of either.
_FOR_GOOD = (b"puter:_in:", b"puter:_ready", b"puter:_backlogs", b"arq:queue")
_PAGE = 1_000


def read_records(client: Any, keys: Sequence[PuterKey]) -> dict[PuterKey, Record | None]:
    """The stored records."""
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.hget(public.record(key), "doc")
        docs = pipe.execute()
    return {key: msgspec.json.decode(doc, type=Record) if doc else None for key, doc in zip(keys, docs, strict=True)}


def left_to_do(client: Any, fates: Mapping[PuterKey, Fate]) -> list[str]:
    """What is left to do in a run: empty when every key is as requested and nothing is open."""
    unmet: dict[str, int] = defaultdict(int)
    for key, record in read_records(client, list(fates)).items():
        if record is None:
            unmet["without a record"] += 1
        elif record.phase is Phase.RUNNING and not record.labelled:
            unmet["without labels"] += 1
        elif not is_met(record, fates[key]):
            unmet[f"{record.phase.value} ({record.reason}), result {record.result}"] += 1
    namespaces = {key.namespace for key in fates}
    lists = [public.inbox(n) for n in namespaces] + [names.backlog(n) for n in namespaces]
    phases = [names.in_phase(phase) for phase in (Phase.RESOLVING, Phase.LAUNCHING)]
    sets = [public.READY, names.BACKLOGS, names.INGRESS, *phases]
    due = [names.due(what, TARGET) for what in ("intents", "labels", "orders", "results")]
    sorted_sets = [*due, names.MOVING, names.PARKED, QUEUE,
                   *(of(TARGET, n) for n in namespaces for of in (names.look_ups, names.launch_queue))]  # fmt: skip
    for name in lists:
        unmet[name] += client.llen(name)
    for name in sets:
        unmet[name] += client.scard(name)
    for name in sorted_sets:
        unmet[name] += client.zcard(name)
    return [f"{count} {what}" for what, count in sorted(unmet.items()) if count]


def judge(
    client: Any,
    fates: Mapping[PuterKey, Fate],
    submissions: Iterable[Submission],
    instances: Sequence[Seen],
    ledger: Iterable[Entry],
    *,
    ended: Mapping[str, End],
    expires_at: int,
) -> list[Finding]:
    """All properties that do not hold. `ended` and `expires_at`: see `judge_workloads`."""
    records = read_records(client, list(fates))
    living = [key for key, fate in fates.items() if fate.lives]
    return [
        *_machines(living, instances),
        *_agreement({key: records[key] for key in living}, instances),
        *(Finding("no record", key) for key, record in records.items() if record is None and key not in living),
        *judge_workloads(client, records, fates, instances, ended, expires_at),
        *_answers(client, submissions, records),
        *(Finding(f"{key!r} has no TTL") for key in for_good(client)),
        *(Finding(f"Puter requested {entry.action} (call {entry.number})") for entry in ledger if entry.forbidden),
    ]


def _machines(keys: Sequence[PuterKey], instances: Sequence[Seen]) -> Iterable[Finding]:
    """Each key has exactly one live instance, and there is no other instance."""
    live: dict[PuterKey | None, list[Seen]] = defaultdict(list)
    places = places_of(instances)
    for seen in instances:
        if seen.holding:
            told = key_of(seen.tags, places[seen.id])
            live[told[0] if told else None].append(seen)
    for key in keys:
        held = live.pop(key, [])
        if len(held) != 1:
            yield Finding(f"{len(held)} live instances: {[(s.id, s.client_token) for s in held]}", key)
    for name, held in live.items():
        yield Finding(f"live instances that nobody requested: {[s.id for s in held]}", name)


def _agreement(records: Mapping[PuterKey, Record | None], instances: Sequence[Seen]) -> Iterable[Finding]:
    """Each record names the instance that exists and its state, and the instance has the key's tags."""
    by_id = {seen.id: seen for seen in instances}
    places = places_of(instances)
    for key, record in records.items():
        if record is None:
            yield Finding("no record", key)
            continue
        seen = by_id.get(record.instance_id or "")
        if seen is None:
            yield Finding(f"its record names {record.instance_id}, which EC2 does not have", key)
            continue
        if record.phase.value != seen.state:
            yield Finding(f"its record says {record.phase.value}, EC2 {seen.state}", key)
        if differing := _differing(record, seen):
            yield Finding(f"its record says {differing}", key)
        if record.intent is not None:
            yield Finding(f"its record still names the intent {record.intent}", key)
        wanted = own_tags(key, record.generation) | {MANAGED: "true"}
        if wrong := {name: seen.tags.get(name) for name, value in wanted.items() if seen.tags.get(name) != value}:
            yield Finding(f"tags of {seen.id} are {wrong}", key)
        if not record.labelled or seen.tags.get(LABELLED) != "yes":
            yield Finding(f"{seen.id} is not labelled", key)
        # Whose workload it has, whatever was written on it later.
        if members := decode_manifest(seen.tags):
            place = places[seen.id]
            born = members[place]
            if MEMBER in seen.tags and seen.tags[MEMBER] != str(place):
                yield Finding(f"{seen.id} is told that it is member {seen.tags[MEMBER]}, not {place}", key)
            if born != (key.tag, record.generation):
                yield Finding(f"{seen.id} was launched for {born}", key)


def _differing(record: Record, seen: Seen) -> str:
    """Facts in which a record and EC2 differ."""
    told = {
        "account": (record.account_id, seen.account),
        "region": (record.region, seen.region),
        "zone": (record.availability_zone, seen.zone),
        "VPC": (record.vpc_id, seen.vpc_id),
        "type": (record.instance_type, seen.instance_type),
        "image": (record.ami_id, seen.image_id),
        "private address": (record.private_ip, seen.private_ip),
        "public address": (record.public_ip, seen.public_ip),
        "public name": (record.public_dns_name, seen.public_dns or None),
        "launch time": (record.launched_at, seen.launched_at),
    }
    return ", ".join(f"{what} {ours}, EC2 {theirs}" for what, (ours, theirs) in told.items() if ours != theirs)


def _answers(
    client: Any, submissions: Iterable[Submission], records: Mapping[PuterKey, Record | None]
) -> Iterable[Finding]:
    """Every acknowledged request has an outcome in its batch."""
    for submission in submissions:
        rows = client.hgetall(public.batch(submission.namespace, submission.batch_id))
        for tag in submission.tags:
            raw = rows.get(tag.encode())
            row = msgspec.json.decode(raw, type=BatchRow) if raw else None
            key = PuterKey(submission.namespace, tag)
            record = records[key]
            if row is None or row.outcome not in _granted(record):
                yield Finding(f"batch {submission.batch_id} answers {row.outcome if row else 'nothing'}", key)
            elif record is not None and row.generation not in _generations(record):
                yield Finding(f"batch {submission.batch_id} speaks of generation {row.generation}", key)


def _granted(record: Record | None) -> set[Outcome]:
    """The outcomes that a request may have, by what has become of its key."""
    if record is not None and record.phase is Phase.CANCELLED:
        return GRANTED | {Outcome.CANCELLED}
    if record is not None and record.phase is Phase.TERMINATED:
        return GRANTED | {Outcome.DONE if record.result is Result.SUCCEEDED else Outcome.SKIPPED}
    return GRANTED


def _generations(record: Record) -> set[int]:
    """The generations that have served a key's one request."""
    return {record.generation, *(attempt.generation for attempt in record.attempts)}


def for_good(client: Any) -> list[bytes]:
    """Keys of Redis that do not expire although they must."""
    mortal = [key for key in client.scan_iter(count=_PAGE) if not key.startswith(_FOR_GOOD)]
    found: list[bytes] = []
    for page in (mortal[at : at + _PAGE] for at in range(0, len(mortal), _PAGE)):
        with client.pipeline(transaction=False) as pipe:
            for key in page:
                pipe.ttl(key)
            found += [key for key, ttl in zip(page, pipe.execute(), strict=True) if ttl == -1]
    return found
