"""What waits in Redis and for how long, for metrics: read with few short commands, whatever it holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from puter_client.contract.errors import InvalidInput
from puter_client.contract.inbox import Inbox
from puter_client.contract.phase import Phase
from puter_client.store import names as public
from puter_worker.store import names
from puter_worker.store.arq_adapter import LATE_MS, QUEUE
from puter_worker.store.database import Database

# Of more namespaces or targets than these, so many are read, and the overview is partial. Together they bound what one
# overview costs Redis: some 3,000 commands that each look at one element, under 5 ms.
MOST_NAMESPACES = 100
MOST_TARGETS = 50
MOST_PAIRS = 500
_A_STEP = 5
_MOST_BYTES = 1_000_000
_BY_TARGET = (names.INTENTS, names.LABELS, names.ORDERS, names.RESULTS, names.CONSOLES)


class Waiting(msgspec.Struct, frozen=True):
    """The inboxes of a namespace that hold something.

    Attributes:
        requests: how many requests no worker has taken.
        taken: how often requests were taken from them.
    """

    requests: int
    taken: int


class Queue(msgspec.Struct, frozen=True):
    """One kind of what is to be done, in all namespaces and targets.

    Attributes:
        items: how many there are.
        age_s: for how long the earliest of them has been due; 0 if none is due, None if nobody notes it.
    """

    items: int = 0
    age_s: float | None = None


class Machines(msgspec.Struct, frozen=True):
    """The machines of a target: those that are alive, and how many of them are still starting."""

    alive: int
    starting: int


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What waits, and what is alive.

    Attributes:
        workers: workers that have announced themselves lately.
        inboxes: inboxes that the ready set names, with or without requests.
        waiting: those with requests, by namespace.
        queues: what is to be done, by the name of its queue.
        queued, resolving, launching: keys in these phases.
        machines: by target.
        memory: bytes that Redis uses.
        memory_limit: its maxmemory, 0 is none.
        partial: whether there are more namespaces or targets than were read.
    """

    workers: int
    inboxes: int
    waiting: dict[str, Waiting]
    queues: dict[str, Queue]
    queued: int
    resolving: int
    launching: int
    machines: dict[str, Machines]
    memory: int
    memory_limit: int
    partial: bool


def _inboxes(texts: Iterable[str]) -> Iterator[Inbox]:
    """The inboxes among names of the ready set, which clients write."""
    for text in texts:
        with suppress(InvalidInput):
            yield Inbox.parse(text)


def _by_namespace(inboxes: Sequence[Inbox], lengths: Sequence[int], taken: Sequence[int]) -> dict[str, Waiting]:
    found: dict[str, Waiting] = {}
    for inbox, length, times in zip(inboxes, lengths, taken, strict=True):
        if length:
            others = found.get(inbox.namespace, Waiting(0, 0))
            found[inbox.namespace] = Waiting(others.requests + length, others.taken + times)
    return found


async def read_overview(db: Database) -> Overview:
    """What waits in this Redis now.

    Raises:
        RedisError, OSError: see `Database.errors`.
    """
    now = db.now()
    backlogs, targets, opening = await _ask(
        db, ("SRANDMEMBER", names.BACKLOGS, MOST_NAMESPACES),
        ("ZREVRANGE", names.TARGETS, 0, MOST_TARGETS - 1), ("SRANDMEMBER", names.INGRESS, MOST_NAMESPACES),
    )  # fmt: skip
    inboxes = list(_inboxes(_texts(await _ready(db))))
    known, texts = _texts(targets), _texts(backlogs)
    ready, targets_in_all, backlogs_in_all, workers, on_its_way, resolving, launching = _counts(
        await _ask(
            db, ("SCARD", public.READY), ("ZCARD", names.TARGETS), ("SCARD", names.BACKLOGS),
            ("ZCOUNT", public.WORKERS, now - db.timings.health_ttl_s, "+inf"), ("ZCARD", names.MOVING),
            ("SCARD", names.in_phase(Phase.RESOLVING)), ("SCARD", names.in_phase(Phase.LAUNCHING)),
        )
    )  # fmt: skip
    lengths = _counts(await _ask(db, *(("LLEN", public.inbox(str(inbox))) for inbox in inboxes)))
    taken = _counts(await _ask(db, *(("HGET", names.TAKEN, str(inbox)) for inbox in inboxes)))
    backlog = sum(_counts(await _ask(db, *(("LLEN", names.backlog(text)) for text in texts))))
    alive = _counts(await _ask(db, *(("ZCARD", names.live(target)) for target in known)))
    starting = _counts(await _ask(db, *(("SCARD", names.starting(target)) for target in known)))
    look_ups, cut_look_ups = await _pairs(db, known, names.looking, names.look_ups)
    launches, cut_launches = await _pairs(db, known, names.launch_queues, names.launch_queue)
    queues = {
        "backlog": Queue(backlog),
        "jobs": await _jobs(db, now),
        "parked": await _queue(db, now, [names.PARKED]),
        "ingress": await _queue(db, now, [names.ingress(text) for text in _texts(opening)]),
        "failures": await _queue(db, now, [names.FAILURES]),
        "look_ups": await _queue(db, now, look_ups),
        "launch_queue": await _queue(db, now, launches),
    }
    for what in _BY_TARGET:
        queues[what] = await _queue(db, now, [names.due(what, target) for target in known])
    memory = await db.redis.info("memory")
    return Overview(
        workers=workers,
        inboxes=ready,
        waiting=_by_namespace(inboxes, lengths, taken),
        queues=queues,
        queued=max(0, on_its_way - resolving - launching),
        resolving=resolving,
        launching=launching,
        machines={
            target: Machines(count, min(count, at_start))
            for target, count, at_start in zip(known, alive, starting, strict=True)
        },
        memory=int(memory.get("used_memory", 0)),
        memory_limit=int(memory.get("maxmemory", 0)),
        partial=ready > MOST_NAMESPACES
        or backlogs_in_all > MOST_NAMESPACES
        or targets_in_all > MOST_TARGETS
        or cut_look_ups
        or cut_launches,
    )


async def _ready(db: Database) -> list[bytes]:
    """Some names of the ready set: clients write them, each of up to 1 MB, so a few are read at a time."""
    found: dict[bytes, None] = {}
    cursor = size = 0
    for _ in range(MOST_NAMESPACES):
        cursor, part = (await _ask(db, ("SSCAN", public.READY, cursor, "COUNT", _A_STEP)))[0] or (0, [])
        found |= dict.fromkeys(part)
        size += sum(map(len, part))
        if not int(cursor) or len(found) >= MOST_NAMESPACES or size > _MOST_BYTES:
            break
    return list(found)[:MOST_NAMESPACES]


async def _ask(db: Database, *commands: tuple[Any, ...]) -> list[Any]:
    """The answers to these commands, which are sent at once; None for one that Redis has refused."""
    if not commands:
        return []
    async with db.redis.pipeline(transaction=False) as pipe:
        for command in commands:
            pipe.execute_command(*command)
        answers = await pipe.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, Exception) and not isinstance(answer, db.refusals):
            raise answer
    return [None if isinstance(answer, Exception) else answer for answer in answers]


def _texts(raws: Iterable[bytes] | None) -> list[str]:
    return [raw.decode(errors="replace") for raw in raws or ()]


def _counts(answers: Sequence[Any]) -> list[int]:
    return [int(answer or 0) for answer in answers]


async def _pairs(db: Database, targets: Sequence[str], groups: Any, items: Any) -> tuple[list[str], bool]:
    """Names of the items of targets and namespaces, and whether there are more than are read."""
    found = await _ask(db, *(("SRANDMEMBER", groups(target), MOST_NAMESPACES + 1) for target in targets))
    pairs = [items(target, name) for target, of_it in zip(targets, found, strict=True) for name in _texts(of_it)]
    return pairs[:MOST_PAIRS], len(pairs) > MOST_PAIRS or any(len(of_it or ()) > MOST_NAMESPACES for of_it in found)


async def _queue(db: Database, now: float, sets: Sequence[str]) -> Queue:
    """These sorted sets of due items as one queue."""
    items = sum(_counts(await _ask(db, *(("ZCARD", name) for name in sets))))
    firsts = await _ask(db, *(("ZRANGE", name, 0, 0, "WITHSCORES") for name in sets))
    return Queue(items, max((_age(now, first) for first in firsts), default=0.0))


async def _jobs(db: Database, now: float) -> Queue:
    items, first = await _ask(
        db, ("ZCARD", QUEUE), ("ZRANGEBYSCORE", QUEUE, "-inf", (now * 1000) + LATE_MS, "WITHSCORES", "LIMIT", 0, 1)
    )
    return Queue(int(items or 0), _age(now, first, unit_s=0.001))


def _age(now: float, first: Sequence[bytes] | None, *, unit_s: float = 1.0) -> float:
    """For how long the earliest member, which Redis tells with its time, has been due."""
    return max(0.0, now - float(first[1]) * unit_s) if first else 0.0
