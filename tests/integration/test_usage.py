"""What namespaces have of what a policy limits: it follows from records, and guards hold at the very limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Phase
from puter_client.contract.record import EventKind, Record
from puter_worker.store.overview import read_overview
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import Versioned
from tests.integration.workshop import Workshop

NOBODY: Versioned[Record | None] = Versioned(None, None)


@pytest.fixture
async def store(workshop: Workshop) -> AsyncIterator[Store]:
    """A worker's store."""
    async with workshop.idle() as worker:
        yield worker.store


def record(store: Store, tag: str, **changes: object) -> Record:
    now = store.now()
    found = Record(namespace="betty", tag=tag, phase=Phase.QUEUED, created_at=now, changed_at=now)
    return found.replace(**changes)


async def put(store: Store, old: Versioned[Record | None], new: Record) -> Versioned[Record]:
    txn = Txn()
    written = store.records.put(txn, old, new, event=EventKind.LAUNCH_BEGUN)
    assert not await store.commit(txn)
    return written


async def counted(store: Store) -> tuple[int, int, int, int, int]:
    """Machines, vCPUs, launches of the last hour, requests that wait, records."""
    used, (waiting, records) = await store.usage.read("betty"), await store.usage.requests("betty")
    return used.machines, used.vcpus, used.launched, waiting, records


async def test_each_step_of_a_launch_is_counted_as_its_record_says(store: Store) -> None:
    queued = await put(store, NOBODY, record(store, "one"))
    assert await counted(store) == (0, 0, 0, 1, 1)
    resolving = await put(store, queued, queued.value.replace(phase=Phase.RESOLVING, target="1:us-east-1:"))
    waits = await put(store, resolving, resolving.value.replace(phase=Phase.LAUNCHING))
    assert await counted(store) == (0, 0, 0, 1, 1)
    begun = await put(store, waits, waits.value.replace(intent="i", vcpus=4))
    assert await counted(store) == (1, 4, 1, 1, 1)
    refused = await put(store, begun, begun.value.replace(intent=None))
    assert await counted(store) == (0, 0, 0, 1, 1)
    again = await put(store, refused, refused.value.replace(intent="j", vcpus=2))
    assert await counted(store) == (1, 2, 1, 1, 1)
    lives = await put(store, again, again.value.replace(intent=None, phase=Phase.PENDING, instance_id="i-1"))
    assert await counted(store) == (1, 2, 1, 0, 1)
    ended = await put(store, lives, lives.value.replace(phase=Phase.TERMINATED, ended_at=store.now()))
    assert await counted(store) == (0, 0, 1, 0, 1)
    second = ended.value.replace(phase=Phase.QUEUED, generation=2, instance_id=None, intent=None)
    await put(store, ended, second)
    assert await counted(store) == (0, 0, 1, 1, 1)


async def in_phases(store: Store) -> tuple[int, ...]:
    """How many keys are queued, resolving, launching, pending and running."""
    overview = await read_overview(store.db)
    machines = overview.machines.values()
    starting, alive = sum(of.starting for of in machines), sum(of.alive for of in machines)
    return overview.queued, overview.resolving, overview.launching, starting, alive - starting


async def test_an_overview_counts_each_key_in_its_phase(store: Store) -> None:
    one, two = [await put(store, NOBODY, record(store, tag)) for tag in ("one", "two")]
    assert await in_phases(store) == (2, 0, 0, 0, 0)
    one = await put(store, one, one.value.replace(phase=Phase.RESOLVING, target="1:us-east-1:"))
    assert await in_phases(store) == (1, 1, 0, 0, 0)
    one = await put(store, one, one.value.replace(phase=Phase.LAUNCHING))
    two = await put(store, two, two.value.replace(phase=Phase.RESOLVING, target="1:us-east-1:"))
    assert await in_phases(store) == (0, 1, 1, 0, 0)
    one = await put(store, one, one.value.replace(phase=Phase.PENDING, instance_id="i-1"))
    two = await put(store, two, two.value.replace(phase=Phase.CANCELLED, ended_at=store.now()))
    assert await in_phases(store) == (0, 0, 0, 1, 0)
    await put(store, one, one.value.replace(phase=Phase.RUNNING, public_ip="192.0.2.1"))
    assert await in_phases(store) == (0, 0, 0, 0, 1)


@pytest.mark.parametrize("phase", [Phase.FAILED, Phase.CANCELLED])
async def test_what_ends_without_a_machine_takes_no_place(store: Store, phase: Phase) -> None:
    queued = await put(store, NOBODY, record(store, "one"))
    await put(store, queued, queued.value.replace(phase=phase, ended_at=store.now()))

    assert await counted(store) == (0, 0, 0, 0, 1)


async def test_a_machine_that_was_found_counts_from_its_launch(store: Store) -> None:
    for tag, ago_s in (("new", 60.0), ("old", 3_700.0)):
        found = record(store, tag, phase=Phase.RUNNING, instance_id=tag, vcpus=2, launched_at=store.now() - ago_s)
        await put(store, NOBODY, found.replace(target="1:us-east-1:"))

    assert await counted(store) == (2, 4, 1, 0, 2)


Expect = Callable[[Store, Txn, int], int]
GUARDS: dict[str, Expect] = {
    "machines": lambda store, txn, most: store.usage.expect_machines(txn, "betty", most=most, more=1),
    "vcpus": lambda store, txn, most: store.usage.expect_vcpus(txn, "betty", most=2 * most, more=2),
    "launches": lambda store, txn, most: store.usage.expect_launches(txn, "betty", most=most, more=1),
    "waiting": lambda store, txn, most: store.usage.expect_waiting(txn, "betty", most=most, more=1),
    "records": lambda store, txn, most: store.usage.expect_records(txn, "betty", most=most, more=1),
}


@pytest.mark.parametrize("what", GUARDS)
async def test_of_many_that_race_exactly_those_pass_that_fit(store: Store, what: str) -> None:
    async def one(number: int) -> bool:
        txn = Txn()
        new = record(store, f"t{number}")
        if what in ("machines", "vcpus", "launches"):
            new = new.replace(phase=Phase.RUNNING, instance_id="i", target="1:us-east-1:", vcpus=2)
        GUARDS[what](store, txn, 7)
        store.records.put(txn, NOBODY, new)
        return not await store.commit(txn)

    passed = await asyncio.gather(*(one(number) for number in range(30)))

    assert sum(passed) == 7
    assert (
        sum(one.value is not None for one in await store.records.read([PuterKey("betty", f"t{n}") for n in range(30)]))
        == 7
    )
