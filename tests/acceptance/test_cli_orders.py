"""`puter stop` and `puter extend` with the local engine, its worker, a simulated EC2 and agents on its machines."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.contract.result import Result
from puter_client.store import names
from tests.acceptance.cli_world import CliWorld
from tests.acceptance.published import Published
from tests.agents import Agents, End, running
from tests.ec2sim.client import ControlClient
from tests.ec2sim.reports import Seen
from tests.integration.sim_workshop import CALM, sim_url

__all__ = ["sim_url"]


@pytest.fixture
def world(sim_url: str, tmp_path: Path) -> Iterator[CliWorld]:
    """Betty's world, on the simulator, which is empty."""

    async def empty() -> None:
        async with ControlClient(sim_url) as sim:
            await sim.reset(CALM)

    asyncio.run(empty())
    made = CliWorld(tmp_path, sim_url)
    yield made
    made.close()


@pytest.fixture
def agents(sim_url: str, world: CliWorld) -> Iterator[threading.Event]:
    """Agents work on all machines. Workloads of tags like `bad-1` fail as soon as the event is set."""
    over, fail = threading.Event(), threading.Event()

    def ends(one: Seen) -> End | None:
        return End.exits(1) if fail.is_set() and one.tags.get("puter:tag", "").startswith("bad") else None

    async def work() -> None:
        async with ControlClient(sim_url) as sim, running(Agents(sim, ends)):
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(work(),))
    thread.start()
    yield fail
    over.set()
    thread.join()


@pytest.mark.usefixtures("agents")
class TestStop:
    def test_a_machine_ends_and_its_workload_is_stopped(self, world: CliWorld) -> None:
        world.up("one", "--run", "sleep 600")
        ran = world.puter("stop", "one")
        (told,) = world.puter("wait", "one", "--for", "finished", "--json").objects()
        assert (ran.code, ran.out) == (0, "1 ended\n")
        assert (told["phase"], told["result"], told["exit_code"]) == ("terminated", "stopped", 143)

    def test_a_whole_batch_ends_and_what_waits_is_cancelled(self, world: CliWorld) -> None:
        words = ["--tag", "job-{i}", "--count", "5", "--run", "work {i}", "--max-parallel", "2"]
        world.puter("submit", *words, "--wait", "queued")
        ran = world.puter("stop", "--batch", "last")
        phases = [one["phase"] for one in world.puter("status", "--batch", "last", "--json").objects()]
        assert ran.code == 0
        assert re.fullmatch(r"(\d cancelled, )?\d ended\n|\d cancelled\n", ran.out)
        assert set(phases) <= {"cancelled", "terminated"}
        assert len(phases) == 5

    def test_many_machines_are_asked_about_on_a_terminal(self, world: CliWorld) -> None:
        world.puter("submit", "--tag", "job-{i}", "--count", "11", "--run", "work {i}", "--wait", "running")
        asked = world.on_terminal("stop", "--all")
        asked.expect("stop 11 machines that run in namespace betty")
        asked.sendline("n")
        asked.expect("nothing was stopped")
        asked.expect(pexpect.EOF)
        asked.close()
        alive = [one["phase"] for one in world.puter("status", "--json").objects()]
        ran = world.puter("stop", "--all", "--yes")
        assert (asked.exitstatus, alive) == (1, ["running"] * 11)
        assert (ran.code, ran.out) == (0, "11 ended\n")

    def test_what_is_not_known_is_told(self, world: CliWorld) -> None:
        world.up("one")
        ran = world.puter("stop", "one", "other")
        assert ran.out == "1 ended\n"
        assert "other: not known" in ran.err


@pytest.mark.usefixtures("agents")
class TestExtend:
    def test_a_machine_ends_later(self, world: CliWorld) -> None:
        first = world.up("one")
        ran = world.puter("extend", "one", "+2h")
        (told,) = world.puter("status", "one", "--json").objects()
        assert ran.code == 0
        assert ran.out.startswith("one: ends itself at ")
        hours = (parsed(told["expires_at"]) - parsed(first["expires_at"])) / 3_600
        assert hours == pytest.approx(2.0)

    def test_a_machine_never_ends(self, world: CliWorld) -> None:
        world.up("one")
        ran = world.puter("extend", "one", "never", "--json")
        assert (ran.code, ran.objects()[0]["expires_at"]) == (0, None)

    def test_what_does_not_run_is_told(self, world: CliWorld) -> None:
        world.up("one")
        world.puter("stop", "one")
        ran = world.puter("extend", "one", "+1h")
        assert ran.code == 1
        assert "one: does not run (terminated)" in ran.err

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (("one",), "say when, once"),
            (("one", "+1h", "never"), "say when, once"),
            (("one", "+1h", "--until", "22:00"), "say when, once"),
            (("+1h",), "name tags, or --batch ID"),
            (("one", "+1x"), "'1x': write it like 90s"),
            (("one", "+400d"), "is over 365d"),
            (("one", "--until", "25:00"), "'25:00': write a time like 22:00"),
            (("one", "--until", "2020-01-01T00:00Z"), "must be in the future"),
        ],
    )
    def test_what_cannot_be_read_is_refused(self, world: CliWorld, words: tuple[str, ...], says: str) -> None:
        ran = world.puter("extend", *words)
        assert (ran.code, ran.out) == (2, "")
        assert says in ran.err


class TestMaxFails:
    BATCH = """
        max_fails: 1
        max_parallel: 2
        defaults: {run: work}
        puters: [bad-1, good-1, good-2, good-3, good-4]
    """

    def test_a_batch_ends_once_so_many_have_failed(
        self, world: CliWorld, agents: threading.Event, tmp_path: Path
    ) -> None:
        file = tmp_path / "batch.yaml"
        file.write_text(self.BATCH)
        world.puter("submit", str(file))
        world.puter("wait", "bad-1", "good-1")
        agents.set()
        ran = world.puter("wait", "--batch", "last", "--for", "finished")
        told = {one["tag"]: one for one in world.puter("status", "--batch", "last", "--json").objects()}
        (cancelled,) = [one for one in told.values() if one["tag"] == "good-4"]
        why = f"1 of batch {cancelled['batch_id']} failed (max_fails)"

        assert ran.code == 1
        assert told["bad-1"]["result"] == "failed"
        assert {one["result"] or one["phase"] for one in told.values()} == {"failed", "stopped", "cancelled"}
        assert (cancelled["outcome"], cancelled["reason"]) == ("cancelled", why)
        assert why in " ".join(ran.out.split())
        stopped = [one for one in told.values() if one["result"] == "stopped"]
        assert {one["order"]["reason"] for one in stopped} == {why}
        assert f"the request was cancelled: cancelled: {why}" in world.puter("why", "good-4").out
        assert f"reason {why}" in world.puter("why", stopped[0]["tag"]).out

    def test_what_runs_may_be_left(self, world: CliWorld, agents: threading.Event, tmp_path: Path) -> None:
        file = tmp_path / "batch.yaml"
        file.write_text(self.BATCH.replace("max_fails: 1", ""))
        ran = world.puter("submit", str(file), "--max-fails", "1", "--keep-running")
        world.puter("wait", "bad-1", "good-1")
        agents.set()
        world.puter("wait", "good-4", "--for", "finished")
        phases = {one["tag"]: one["phase"] for one in world.puter("status", "--batch", "last", "--json").objects()}
        orders = [one["order"] for one in world.puter("status", "--batch", "last", "--json").objects()]

        assert ran.code == 0
        assert (phases["good-1"], phases["good-4"]) == ("running", "cancelled")
        assert set(orders) == {None}

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (("--keep-running",), "--keep-running goes with --max-fails N, or with max_fails in the file"),
            (("--max-fails", "0"), "0 is not in the range 1<=x<=100000"),
            (("--max-fails", "many"), "'many' is not a valid integer"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, world: CliWorld, words: tuple[str, ...], says: str) -> None:
        ran = world.puter("submit", "--tag", "one", "--run", "work", *words)
        assert (ran.code, ran.out) == (2, "")
        assert says in ran.err


@pytest.mark.usefixtures("agents")
class TestAnotherTtl:
    def test_asking_for_a_machine_with_another_ttl_moves_its_end(self, world: CliWorld) -> None:
        first = world.up("one", "--run", "sleep 600")
        ran = world.puter("up", "one", "--run", "sleep 600", "--ttl", "5h", "--disk", "50")
        (told,) = world.puter("status", "one", "--json").objects()
        again = world.puter("up", "one", "--run", "sleep 600", "--ttl", "5h")
        (same,) = world.puter("status", "one", "--json").objects()

        assert ran.code == 0
        assert re.search(
            r"^puter: note: one existed already: it now ends itself at [\d-]*\s?\d\d:\d\d$", ran.err, re.MULTILINE
        )
        assert "not applied: --disk (" in ran.err
        assert told["order"]["kind"] == "extend"
        assert told["order"]["confirmed_at"] is not None
        assert (told["instance_id"], told["ttl_s"]) == (first["instance_id"], 18_000)
        assert parsed(told["expires_at"]) - parsed(told["order"]["given_at"]) == pytest.approx(18_000)
        assert "ends itself" not in again.err
        assert same["expires_at"] == told["expires_at"]

    def test_a_machine_stays_for_good(self, world: CliWorld) -> None:
        world.up("one")
        told = world.up("one", "--no-shutdown")
        ran = world.puter("up", "one")
        assert (told["applied"], told["not_applied"], told["expires_at"], told["ttl_s"]) == (["ttl"], [], None, None)
        assert "until somebody ends it" in ran.out

    def test_a_batch_is_told_without_waiting_and_its_settings_move_no_end(
        self, world: CliWorld, tmp_path: Path
    ) -> None:
        batch = tmp_path / "batch.yaml"
        batch.write_text("defaults: {ttl: 1h}\nputers: [job-1, job-2]\n")
        world.puter("submit", str(batch), "--wait", "running")
        config = world.home / "config.toml"
        config.write_text('[defaults]\nttl = "30m"\n')
        silent = world.puter("submit", "--tag", "job-{i}", "--count", "3", "--wait", "running", "--json")
        config.unlink()
        batch.write_text("defaults: {ttl: 5h}\nputers: [job-1, job-2]\n")
        ran = world.puter("submit", str(batch))
        again = world.puter("submit", str(batch), "--json")

        assert [one["not_applied"] for one in silent.objects()] == [[], ["ttl"], ["ttl"]]
        assert (
            "note: job-1, job-2 existed already, with another ttl than that of your settings: --ttl sets" in silent.err
        )
        assert "note: job-1, job-2 existed already: it now ends itself at " in ran.err
        assert [one["applied"] for one in again.objects()] == [[], []]


def test_machines_that_do_not_react_are_named_with_what_helps(world: CliWorld) -> None:
    machine = world.up("deaf", "--run", "work")
    ran = world.puter("stop", "deaf")
    assert ran.code == 1
    assert "1 machine did not react within 60 s" in ran.out
    assert f"ssh -i {machine['private_key_path']}" in ran.out
    assert f"aws ec2 terminate-instances --region us-east-1 --instance-ids {machine['instance_id']}" in ran.out


def parsed(at: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(at).timestamp()


def test_all_are_stopped_that_may_run_again(published: Published) -> None:
    """Of a machine that has ended it may not be known yet how its workload did."""
    ended: dict[str, Any] = {"phase": Phase.TERMINATED, "ended_at": published.now, "has_workload": True}
    known: dict[str, Any] = {"namespace": "betty", "created_at": published.now, "changed_at": published.now}
    published.records(
        Record(tag="open", **known, **ended),
        Record(tag="done", **known, **ended, result=Result.SUCCEEDED),
        Record(tag="idle", **known, **ended | {"has_workload": False}),
        Record(tag="off", **known, **ended | {"phase": Phase.CANCELLED}),
    )
    published.ready_worker()
    published.world.puter("stop", "--all", "--yes")
    raws: Any = published.redis.lrange(names.inbox("betty"), 0, -1)
    requests = [json.loads(raw) for raw in raws]
    assert [(one["type"], one["tag"]) for one in requests] == [("stop", "open")]
