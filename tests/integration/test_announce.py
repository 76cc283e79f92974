"""announce: a worker that a Redis has forgotten is there again soon, and costs next to nothing meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import pytest

from puter_client.client import PuterClient
from puter_client.contract.health import WorkerHealth
from puter_client.store import names as public
from puter_client.timings import DEFAULT_TIMINGS
from puter_worker.errors import CredentialsError, ProfileMissing
from puter_worker.stages.announce import Announce
from puter_worker.timings import Timings
from puter_worker.worker import Worker
from tests.integration.stage_world import until
from tests.integration.workshop import PATIENCE_S, Workshop


def announce_of(worker: Worker) -> Announce:
    return worker._announce


def announced(shop: Workshop) -> int:
    with shop.server.client() as behind:
        count: Any = behind.zcard(public.WORKERS)
        return int(count)


def calls(shop: Workshop) -> dict[str, int]:
    """How often each command was executed."""
    with shop.server.client() as behind:
        stats: Any = behind.info("commandstats")
        return {name.removeprefix("cmdstat_"): int(stat["calls"]) for name, stat in stats.items()}


async def test_one_look_that_finds_it_announced_is_one_command(workshop: Workshop) -> None:
    async with workshop.idle() as worker:
        announce = announce_of(worker)
        await announce.run_once()
        before = calls(workshop)

        assert await announce.run_once() == workshop.timings.health_look_s

        after = calls(workshop)
        # Two more are of the client that counts.
        used = {name: count - before.get(name, 0) for name, count in after.items()}
        assert {name: count for name, count in used.items() if count and name not in ("info", "client|setinfo")} == {
            "exists": 1
        }


async def test_a_worker_is_announced_again_where_redis_was_emptied(workshop: Workshop) -> None:
    async with workshop.idle() as worker:
        announce = announce_of(worker)
        await announce.run_once()
        with workshop.server.client() as behind:
            behind.flushall()

        await announce.run_once()

    assert announced(workshop) == 1


@pytest.mark.parametrize("by", ["a message of a client", "itself"])
async def test_it_looks_by(workshop: Workshop, by: str) -> None:
    never = 3_600.0
    workshop.hurry(health_s=never, health_look_s=never if by == "a message of a client" else 0.1)
    async with workshop.working():
        with workshop.server.client() as behind:
            assert announced(workshop) == 1
            behind.flushall()
            if by == "a message of a client":
                async with workshop.client_of("anna") as anna:
                    await anna.call_workers()
        await until("it is announced", lambda: announced(workshop) == 1)


async def test_a_viewer_who_cannot_call_it_is_not_told_that_none_runs(workshop: Workshop) -> None:
    workshop.hurry(health_s=3_600.0)
    async with workshop.working():
        with workshop.server.client() as behind:
            behind.flushall()
            behind.execute_command("ACL SETUSER viewer on nopass ~* &* +@all -publish")
        try:
            url = workshop.server.url.replace("unix://", "unix://viewer:any@")
            async with PuterClient.connect(url, namespace="betty", user="viewer") as viewer:
                assert await viewer.worker_absence(within_s=PATIENCE_S) is None
        finally:
            with workshop.server.client() as behind:
                behind.execute_command("ACL DELUSER viewer")


# A moment ago is an hour ahead: it stays that however long the test takes.
@pytest.mark.parametrize(("ago_s", "waits"), [(60.0, False), (-3_600.0, True), (None, True)])
async def test_a_redis_that_has_kept_something_was_not_emptied_since(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, ago_s: float | None, waits: bool
) -> None:
    """Nobody who looks at it waits for a worker to announce itself anew."""
    calls = list[None]()

    async def called() -> None:
        calls.append(None)

    monkeypatch.setattr(workshop.client, "call_workers", called)
    now = time.time()
    kept_since = None if ago_s is None else now - ago_s
    absence = await workshop.client.worker_absence(within_s=0.5, kept_since=kept_since)

    assert absence is not None
    assert bool(calls) == waits


async def test_stages_drain_at_once_though_redis_is_slow_to_hear_of_it(workshop: Workshop) -> None:
    async with workshop.working(drain_s=PATIENCE_S) as worker:
        heard = asyncio.Event()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(announce_of(worker), "announce_draining", heard.wait)
            worker.stop()
            await until("its stages have ended", lambda: worker._runner.health() == ())
            assert announced(workshop) == 1  # it has not ended yet
            heard.set()


async def test_credentials_that_fail_are_told_to_those_who_may_use_them(workshop: Workshop) -> None:
    async with workshop.idle() as worker, workshop.client_of("anna") as anna:
        rules, failing = worker.rules, worker.targets.failing
        for profile in (None, "lab", "secret"):
            failing.failed(profile, "expired", worker.store.now())
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(rules, "public_profiles", lambda _: ("lab",))
            patched.setattr(rules, "own_profiles", lambda _: {"betty": ("secret",)})
            await announce_of(worker).run_once()

        def told(healths: Sequence[WorkerHealth]) -> list[str]:
            return [one.profile for health in healths for one in health.credentials]

        assert told(await workshop.client.workers()) == ["", "lab", "secret"]
        assert told(await anna.workers()) == ["", "lab"]


async def test_a_profile_that_this_host_does_not_have_fails_no_worker(workshop: Workshop) -> None:
    async with workshop.idle() as worker:
        with pytest.raises(ProfileMissing):
            await worker.targets.find("made-up", "us-east-1")

        assert worker.targets.failing.now(worker.store.now()) == ()


async def test_an_account_that_cannot_be_read_makes_credentials_fail_until_it_can(workshop: Workshop) -> None:
    async with workshop.idle() as worker:
        with pytest.MonkeyPatch.context() as patched:

            async def account_id(*_: Any) -> NoReturn:
                raise CredentialsError("the token has expired")

            patched.setattr(worker.targets.sessions, "account_id", account_id)
            with pytest.raises(CredentialsError):
                await worker.targets.find(None, "us-east-1")
        (failing,) = worker.targets.failing.now(worker.store.now())
        assert (failing.profile, "the token has expired" in failing.error) == ("", True)

        await worker.targets.find(None, "us-east-1")
        assert worker.targets.failing.now(worker.store.now()) == ()


def test_what_a_command_waits_for_a_worker_is_longer_than_a_worker_takes_to_look() -> None:
    assert DEFAULT_TIMINGS.worker_tells_within_s > Timings().health_look_s


def test_messages_without_end_cost_few_looks() -> None:
    assert Announce.least_gap_s is not None
    assert Announce.least_gap_s >= 0.2
