"""Consoles that somebody wants to see: asked for by a client, read by a worker, published for a while."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from puter_client.contract.console import MAX_CONSOLE, Console
from puter_client.contract.errors import WaitTimedOut
from puter_client.contract.key import PuterKey
from puter_client.contract.record import Record
from puter_client.contract.request import ConsoleRequest
from puter_client.store import names as public
from puter_worker.rates import Bucket
from puter_worker.stages.consoles import ACTION, LEFT_FOR_OTHERS
from puter_worker.store import names
from tests.ec2sim.config import Fault
from tests.ec2sim.reports import Seen
from tests.frames import frame
from tests.integration.sim_workshop import SPEED, TARGET, SimWorkshop, eventually, sim_url, sim_workshop

__all__ = ["sim_url", "sim_workshop"]

AGAIN_S = 0.4
DUE = names.due(names.CONSOLES, TARGET)


@pytest.fixture(autouse=True)
def quick(sim_workshop: SimWorkshop) -> None:
    """Consoles may be read often, by workers and clients alike."""
    sim_workshop.hurry(console_again_s=AGAIN_S, console_room_s=0.05)
    client = sim_workshop.client
    client.timings = msgspec.structs.replace(client.timings, console_fresh_s=AGAIN_S, look_every_s=0.02)


async def launched(shop: SimWorkshop, tag: str = "one", **fields: Any) -> tuple[Record, Seen]:
    """A running machine: its record, and itself."""
    await shop.request(tag, **({"run": "work"} | fields))
    (record,) = await shop.records(tag)
    return record, next(one for one in await shop.living() if one.id == record.instance_id)


async def reads(shop: SimWorkshop) -> int:
    """How often a console was read."""
    return len(await shop.calls(ACTION))


def due(shop: SimWorkshop) -> int:
    """How many consoles are to be read."""
    with shop.server.client() as behind:
        return int(behind.zcard(DUE))


async def answered(shop: SimWorkshop) -> None:
    """Return when intake has taken everything, and no console is to be read."""

    async def quiet() -> bool:
        return not await shop.client.untaken() and not due(shop)

    await eventually("all requests are answered", quiet)


async def test_a_client_sees_what_the_console_shows_now(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working():
        record, one = await launched(sim_workshop)
        await sim_workshop.sim.write_console(one.id, "first\r\n")
        first = await sim_workshop.client.console(record)
        await sim_workshop.sim.write_console(one.id, "second\r\n")
        second = await sim_workshop.client.console(record, after=first.read_at)

    assert first.text.endswith("first\n")
    assert second.text.endswith("first\nsecond\n")
    assert (first.generation, first.problem, due(sim_workshop)) == (1, None, 0)


async def test_what_was_read_just_before_is_not_read_again(sim_workshop: SimWorkshop) -> None:
    sim_workshop.client.timings = msgspec.structs.replace(sim_workshop.client.timings, console_fresh_s=60.0)
    async with sim_workshop.working():
        record, _ = await launched(sim_workshop)
        first = await sim_workshop.client.console(record)
        before = await reads(sim_workshop)
        assert await sim_workshop.client.console(record) == first

    assert await reads(sim_workshop) == before


async def test_however_often_it_is_asked_for_a_console_is_read_now_and_then(sim_workshop: SimWorkshop) -> None:
    sim_workshop.hurry(console_again_s=600.0)
    async with sim_workshop.working():
        record, _ = await launched(sim_workshop)
        await sim_workshop.client.console(record)
        before = await reads(sim_workshop)
        requests = [ConsoleRequest(tag="one", user="betty") for _ in range(200)]
        await sim_workshop.client._store.append("betty", requests)

        async def taken() -> bool:
            return not await sim_workshop.client.untaken() and due(sim_workshop) == 1

        await eventually("all are taken, and one reading is due", taken)

    assert await reads(sim_workshop) == before


async def test_it_ends_by_itself_with_the_machine(sim_workshop: SimWorkshop) -> None:
    sim_workshop.hurry(console_again_s=2.0, result_reads_s=(0.0,))
    async with sim_workshop.working(quiet_sweep_s=0.1):
        record, one = await launched(sim_workshop)
        await sim_workshop.client.console(record)
        await sim_workshop.client._store.append("betty", [ConsoleRequest(tag="one", user="betty")])
        await sim_workshop.sim.shut_down(one.id)
        await answered(sim_workshop)

    assert due(sim_workshop) == 0


@pytest.mark.parametrize(
    "request_",
    [
        ConsoleRequest(tag="stranger", user="betty"),
        ConsoleRequest(tag="gone", user="betty"),
        ConsoleRequest(tag="one", user="betty", batch="another"),
    ],
    ids=["no record", "ended", "another batch's"],
)
async def test_where_there_is_no_machine_nothing_is_read(sim_workshop: SimWorkshop, request_: ConsoleRequest) -> None:
    sim_workshop.hurry(result_reads_s=(0.0,))
    async with sim_workshop.working(quiet_sweep_s=0.1):
        await launched(sim_workshop)
        _, gone = await launched(sim_workshop, "gone", run=None)
        await sim_workshop.sim.shut_down(gone.id)

        async def has_ended() -> bool:
            (record,) = await sim_workshop.records("gone")
            return record.ended_at is not None

        await eventually("it has ended", has_ended)
        before = await reads(sim_workshop)
        await sim_workshop.client._store.append("betty", [request_])
        await answered(sim_workshop)

    assert await reads(sim_workshop) == before


@pytest.mark.parametrize("code", ["RequestLimitExceeded", "InternalError", "UnauthorizedOperation"])
async def test_a_refusal_is_told_and_not_tried_again_by_itself(sim_workshop: SimWorkshop, code: str) -> None:
    async with sim_workshop.working():
        record, _ = await launched(sim_workshop)
        await sim_workshop.faults(Fault(action=ACTION, code=code))
        console = await sim_workshop.client.console(record)
        before = await reads(sim_workshop)
        await sim_workshop.faults()
        again = await sim_workshop.client.console(record, after=console.read_at)

    assert code in (console.problem or "")
    assert (again.problem, await reads(sim_workshop)) == (None, before + 1)


async def test_end_frames_are_left_out_and_the_end_is_kept(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working():
        record, one = await launched(sim_workshop, on_exit="keep")
        boot = "".join(f"[ {n}] boot\r\n" for n in range(5_000))
        await sim_workshop.sim.write_console(one.id, boot + frame("f" * 16, 3, "secret" * 100) + "login: \r\n")
        console = await sim_workshop.client.console(record)

    assert "puter:frame" not in console.text
    assert console.text.endswith("[ 4999] boot\n\nlogin: \n")
    assert len(console.text) == MAX_CONSOLE


async def test_a_machine_without_nitro_shows_what_ec2_has_posted(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working():
        record, one = await launched(sim_workshop, instance_type="t2.micro")
        await sim_workshop.sim.write_console(one.id, "posted\r\n")
        await sim_workshop.sim.post_console(one.id)
        console = await sim_workshop.client.console(record)

    assert console.text.endswith("posted\n")


async def test_it_leaves_room_for_results_and_orders(sim_workshop: SimWorkshop) -> None:
    sim_workshop.set_bucket(ACTION, Bucket(LEFT_FOR_OTHERS, SPEED))
    async with sim_workshop.working():
        record, _ = await launched(sim_workshop)
        sim_workshop.client.timings = msgspec.structs.replace(sim_workshop.client.timings, console_answer_s=0.5)
        with pytest.raises(WaitTimedOut, match="no worker has read the console of one within"):
            await sim_workshop.client.console(record)

        async def taken() -> bool:
            return due(sim_workshop) == 1

        await eventually("it is taken", taken)

    assert (await reads(sim_workshop), due(sim_workshop)) == (0, 1)


async def test_what_a_dead_worker_had_claimed_is_read(sim_workshop: SimWorkshop) -> None:
    sim_workshop.hurry(console_claim_s=0.2)
    async with sim_workshop.working():
        record, _ = await launched(sim_workshop)
    with sim_workshop.server.client() as behind:
        behind.zadd(DUE, {f"{record.key}#1": sim_now(sim_workshop) + 0.2})
    async with sim_workshop.working(), sim_workshop.working():
        await eventually("it is published", lambda: asyncio.to_thread(is_published, sim_workshop, record.key))
        await answered(sim_workshop)


async def test_what_is_published_expires(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working():
        record, _ = await launched(sim_workshop)
        await sim_workshop.client.console(record)
        with sim_workshop.server.client() as behind:
            left_s = int(behind.ttl(public.console(record.key)))

    assert 0 < left_s <= sim_workshop.timings.console_kept_s


@pytest.mark.parametrize(
    "raw", [b"", b"\xff", b"{}", msgspec.json.encode(Console(generation=7, read_at=9e9, text="of another"))]
)
async def test_what_somebody_else_wrote_there_is_not_taken_for_it(sim_workshop: SimWorkshop, raw: bytes) -> None:
    async with sim_workshop.working():
        record, one = await launched(sim_workshop)
        await sim_workshop.sim.write_console(one.id, "true\r\n")
        with sim_workshop.server.client() as behind:
            behind.set(public.console(record.key), raw)
        console = await sim_workshop.client.console(record)

    assert console.text.endswith("true\n")


def sim_now(shop: SimWorkshop) -> float:
    """Redis TIME."""
    with shop.server.client() as behind:
        seconds, micros = behind.time()
    return float(seconds) + float(micros) / 1e6


def is_published(shop: SimWorkshop, key: PuterKey) -> bool:
    """Whether a console of the key is published."""
    with shop.server.client() as behind:
        return bool(behind.exists(public.console(key)))
