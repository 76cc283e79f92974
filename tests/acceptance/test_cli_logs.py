"""`puter logs`: of what has ended, from what workers have published; of what runs, with a stand-in for ssh."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from puter_client.contract.batch import BatchInfo, BatchRow
from puter_client.contract.outcome import Outcome
from puter_client.contract.output import Output
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.contract.result import Result
from puter_client.store import names
from tests.acceptance.cli_world import PATIENCE_S, PUTER, CliWorld, Ran, ended
from tests.acceptance.published import NAMESPACE, Published
from tests.ec2sim.reports import Seen
from tests.frames import frame
from tests.integration.engine_world import is_running
from tests.integration.sim_workshop import SimWorkshop, eventually, sim_url, sim_workshop

__all__ = ["sim_url", "sim_workshop"]

REFUSED = "ssh: connect to host 192.0.2.1 port 22: Connection timed out"
UNREACHED = f"printf '%s\\r\\n' '{REFUSED}' >&2; exit 255"
# Does what ssh would have the machine do, with the machine's log in $LOGS.
ON_MACHINE = 'for last; do :; done; exec sh -c "$(printf %s "$last" | sed "s#/var/log/puter#$LOGS#g")"'


# -- what has ended ---


def record(world: Published, tag: str, phase: Phase = Phase.TERMINATED, **fields: Any) -> Record:
    """A record of a workload that has ended."""
    known: dict[str, Any] = {
        "created_at": world.now - 60,
        "changed_at": world.now,
        "ended_at": world.now,
        "instance_id": "i-0123456789abcdef0",
        "has_workload": True,
        "result": Result.FAILED,
        "exit_code": 3,
        "reason": "workload failed, exit code 3",
    }
    return Record(namespace=NAMESPACE, tag=tag, phase=phase, **known | fields)


def put(
    world: Published, one: Record, text: str | None = None, *, total: int | None = None, generation: int = 1
) -> None:
    """Publish a record, and what the workload of this generation has printed."""
    world.records(one)
    if text is not None:
        total = len(text.encode()) if total is None else total
        output = Output(generation=generation, text=text, total_bytes=total)
        world.redis.set(names.output(one.key), msgspec.json.encode(output))


def batch(world: Published, *records: Record, **rows: BatchRow) -> None:
    """A batch of these, and of others with rows of their own."""
    info = BatchInfo(batch_id="b1", namespace=NAMESPACE, size=len(records) + len(rows), owner="b", created_at=world.now)
    world.batch(info, {one.tag: BatchRow(outcome=Outcome.CREATED, request_number=1) for one in records} | rows)


class TestEnded:
    def test_its_output_is_stdout_and_nothing_else_is(self, published: Published) -> None:
        put(published, record(published, "one"), "a\nb\n")
        ran = published.world.puter("logs", "one")
        assert (ran.code, ran.out, ran.err) == (0, "a\nb\n", "")

    def test_what_is_only_the_last_part_is_told(self, published: Published) -> None:
        put(published, record(published, "one"), "x" * 8_191 + "\n", total=1_234_567)
        ran = published.world.puter("logs", "one")
        assert (ran.code, len(ran.out)) == (0, 8_192)
        assert ran.err == "puter: one: only the last 8,192 of 1,234,567 bytes that it has printed are known\n"

    def test_a_machine_that_is_kept_has_all_of_it(self, published: Published) -> None:
        put(published, record(published, "one", Phase.RUNNING, ended_at=None), "b\n", total=100)
        ran = published.world.puter("logs", "one", "-n", NAMESPACE)
        assert "all of it is on its machine: puter ssh one -- cat /var/log/puter/workload.log -n betty" in ran.err

    @pytest.mark.parametrize(
        ("tail", "out"), [("1", "c\n"), ("2", "b\nc\n"), ("9", "a\nb\nc\n"), ("all", "a\nb\nc\n"), ("0", "")]
    )
    def test_the_last_lines_are_shown(self, published: Published, tail: str, out: str) -> None:
        put(published, record(published, "one"), "a\nb\nc\n")
        assert published.world.puter("logs", "one", "--tail", tail).out == out

    def test_a_file_gets_the_very_output(self, published: Published) -> None:
        text = "\x1b[31mred\x1b[0m\tx\r\n50%\r100%\n\x00\u202e no end"
        put(published, record(published, "one"), text)
        ran = published.world.puter("logs", "one", PYTHONUTF8="1")
        # The stand-in for a file decodes line ends.
        assert ran.out == text.replace("\r\n", "\n").replace("\r", "\n")

    def test_a_terminal_obeys_none_of_it_and_each_state_of_a_bar_is_a_line(self, published: Published) -> None:
        put(published, record(published, "one"), "\x1b[31mred\x1b[0m\tx\r\n50%\r100%\nend")
        code, written = ended(published.world.on_terminal("logs", "one"))
        assert (code, written.splitlines()) == (0, ["\ufffd[31mred\ufffd[0m    x", "50%", "100%", "end"])

    def test_what_printed_nothing_says_so(self, published: Published) -> None:
        put(published, record(published, "one", result=Result.SUCCEEDED, exit_code=0), "")
        ran = published.world.puter("logs", "one")
        assert (ran.code, ran.out, ran.err) == (0, "", "puter: one: it has printed nothing\n")

    @pytest.mark.parametrize(
        ("fields", "told"),
        [
            ({"result": Result.LOST, "exit_code": None, "reason": "workload lost: no frame"}, "one: workload lost: no"),
            ({"has_workload": False, "result": None}, "one: it had no workload (--run)"),
            ({"phase": Phase.FAILED, "result": None, "instance_id": None, "reason": "no room"}, "one: failed: no room"),
            ({"result": None, "reason": "looking again in 15 s"}, "looking again in 15 s; wait for its output with: "),
        ],
    )
    def test_where_nothing_is_known_the_reason_is_told(
        self, published: Published, fields: dict[str, Any], told: str
    ) -> None:
        put(published, record(published, "one").replace(**fields))
        ran = published.world.puter("logs", "one")
        assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, "", 1)
        assert told in ran.err

    def test_the_output_of_another_machine_is_not_taken_for_it(self, published: Published) -> None:
        put(published, record(published, "one", generation=2), "of the first\n")
        ran = published.world.puter("logs", "one")
        assert (ran.code, ran.out) == (1, "")

    def test_a_stranger_is_one_line(self, published: Published) -> None:
        ran = published.world.puter("logs", "stranger")
        assert (ran.code, ran.err) == (1, "puter: stranger is not known in namespace betty\n")

    def test_programs_get_an_object(self, published: Published) -> None:
        put(published, record(published, "one"), "a\x1b\n", total=100)
        ran = published.world.puter("logs", "one", "--json")
        assert ran.objects() == [
            {
                "namespace": "betty",
                "tag": "one",
                "phase": "terminated",
                "generation": 1,
                "result": "failed",
                "exit_code": 3,
                "source": "end",
                "output": "a\x1b\n",
                "known_bytes": 3,
                "total_bytes": 100,
            }
        ]

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            ((), "name tags, or --batch ID"),
            (("one", "--batch", "b1"), "choose one"),
            (("one", "--tail", "-1"), "'-1': write a number of lines, or all"),
            (("one", "--tail", "\u0663"), "write a number of lines, or all"),
            (("one", "--follow", "--json"), "leave --follow out"),
            (("one", "two", "--console"), "--console goes with one tag"),
            (("one", "-f", "--console"), "--console goes with one tag"),
        ],
    )
    def test_what_cannot_be_is_refused(self, published: Published, words: tuple[str, ...], says: str) -> None:
        ran = published.world.puter("logs", *words)
        assert (ran.code, ran.out) == (2, "")
        assert says in ran.err


class TestMany:
    def test_each_line_begins_with_its_tag_and_tags_are_in_their_order(self, published: Published) -> None:
        for n in (10, 2):
            put(published, record(published, f"job-{n}"), f"first of {n}\nlast of {n}")
        batch(published, record(published, "job-10"), record(published, "job-2"))
        ran = published.world.puter("logs", "--batch", "b1")
        assert ran.code == 0
        assert ran.out == ("job-2  | first of 2\njob-2  | last of 2\njob-10 | first of 10\njob-10 | last of 10\n")

    def test_failed_shows_what_did_not_succeed(self, published: Published) -> None:
        good = record(published, "good", result=Result.SUCCEEDED, exit_code=0)
        bad, lost = record(published, "bad"), record(published, "lost", result=Result.LOST, reason="workload lost")
        for one, text in ((good, "fine\n"), (bad, "oops\n"), (lost, None)):
            put(published, one, text)
        batch(published, good, bad, lost)
        ran = published.world.puter("logs", "--batch", "last", "--failed")
        assert (ran.code, ran.out, ran.err) == (0, "bad  | oops\n", "puter: lost: workload lost\n")

    def test_where_nothing_failed_that_is_no_failure(self, published: Published) -> None:
        good = record(published, "good", result=Result.SUCCEEDED, exit_code=0)
        put(published, good, "fine\n")
        batch(published, good)
        ran = published.world.puter("logs", "--batch", "b1", "--failed")
        assert (ran.code, ran.out, ran.err) == (0, "", "puter: nothing has failed\n")

    def test_a_request_that_ran_nothing_has_no_output_of_others(self, published: Published) -> None:
        for tag in ("mine", "theirs", "later"):
            put(published, record(published, tag, request_number=2 if tag == "later" else 1), f"of {tag}\n")
        refused = BatchRow(outcome=Outcome.CONFLICT, message="running with another type")
        batch(published, record(published, "mine"), record(published, "later"), theirs=refused)
        ran = published.world.puter("logs", "--batch", "b1")
        assert ran.out == "mine   | of mine\n"
        assert "puter: later: its tag was requested again since" in ran.err
        assert "puter: theirs: conflict: running with another type" in ran.err

    def test_some_tags_that_are_not_known_hide_no_others(self, published: Published) -> None:
        put(published, record(published, "one"), "a\n")
        ran = published.world.puter("logs", "one", "stranger")
        assert (ran.code, ran.out) == (1, "one | a\n")
        assert "stranger is not known" in ran.err

    def test_500_outputs_are_printed_with_notes_that_are_few(self, published: Published) -> None:
        records = [record(published, f"job-{n}") for n in range(500)]
        for n, one in enumerate(records):
            put(published, one, f"line of {n}\n" * 600, total=10**6)
        batch(published, *records)
        ran = published.world.puter("logs", "--batch", "b1", "--tail", "1")
        assert ran.out == "".join(f"{f'job-{n}':<7} | line of {n}\n" for n in range(500))
        assert ran.err == "puter: job-0, job-1, job-2 and 497 more: only the last part of the output is known\n"


# -- what runs ---


class Running:
    """Commands on a Redis with a worker and a simulated EC2, and one machine's log."""

    def __init__(self, shop: SimWorkshop, folder: Path) -> None:
        self.shop = shop
        self.world = CliWorld(folder, "http://127.0.0.1:1")  # no command calls AWS
        self.world.environ |= {"PUTER_REDIS_URL": shop.server.url, "LOGS": str(folder)}
        self.log = folder / "workload.log"

    def ssh(self, script: str) -> None:
        """From now on, this is what ssh does."""
        self.world.environ["PATH"] = self.world.program("ssh", script)

    async def puter(self, *words: str) -> Ran:
        """Run a command to its end."""
        return await asyncio.to_thread(self.world.puter, *words)

    @asynccontextmanager
    async def follows(self, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A command that goes on; it is gone afterwards."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *PUTER, *words, env=self.world.environ, cwd=self.world.home.parent, stdout=pipe, stderr=pipe
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGINT)
                await process.communicate()

    async def launched(self, *tags: str, **fields: Any) -> list[Seen]:
        """Running machines with workloads."""
        await self.shop.request(*tags, **({"run": "work"} | fields))
        by_id = {one.id: one for one in await self.shop.living()}
        return [by_id[one.instance_id or ""] for one in await self.shop.records(*tags)]

    async def ends(self, one: Seen, output: str, exit_code: int = 0) -> None:
        """The machine's workload ends as its agent says it, and then the machine."""
        await self.shop.sim.write_console(one.id, frame(one.tags["puter:intent"], exit_code, output))
        await self.shop.sim.shut_down(one.id)


@pytest.fixture
async def running(sim_workshop: SimWorkshop, tmp_path: Path) -> AsyncIterator[Running]:
    """A worker runs, whose pauses are short."""
    sim_workshop.hurry(result_reads_s=(0.0, 0.3, 0.6), console_again_s=0.3)
    (tmp_path / "there").mkdir()
    async with sim_workshop.working(quiet_sweep_s=0.2):
        yield Running(sim_workshop, tmp_path / "there")


async def line(stream: asyncio.StreamReader | None) -> str:
    """The next line that a command writes."""
    assert stream
    return (await asyncio.wait_for(stream.readline(), PATIENCE_S)).decode()


async def over(process: asyncio.subprocess.Process) -> Ran:
    """A command that has ended by itself, and what it wrote last."""
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode is not None
    return Ran(subprocess.CompletedProcess([], process.returncode, out.decode(), err.decode()))


class TestRunning:
    async def test_its_log_is_read_by_ssh(self, running: Running) -> None:
        await running.launched("one")
        running.ssh(ON_MACHINE)
        running.log.write_bytes(b"".join(b"line %d\n" % n for n in range(150)))
        ran = await running.puter("logs", "one")
        some = await running.puter("logs", "one", "--tail", "2")
        every = await running.puter("logs", "one", "--tail", "all")
        assert ran.out.splitlines() == [f"line {n}" for n in range(50, 150)]
        assert ran.err == "puter: one: the last 100 lines; --tail all prints everything\n"
        assert (some.out, some.err) == ("line 148\nline 149\n", "")
        assert (len(every.out.splitlines()), every.err, every.code) == (150, "", 0)

    async def test_ssh_gets_the_options_of_puter_ssh_and_asks_for_nothing(self, running: Running) -> None:
        (one,) = await running.launched("one")
        seen = running.log.parent / "seen"
        running.ssh(f'for word; do printf "%s\\n" "$word"; done > {seen}; {ON_MACHINE}')
        running.log.write_text("x\n")
        await running.puter("logs", "one")
        words = seen.read_text().splitlines()
        assert {f"HostKeyAlias={one.id}", "StrictHostKeyChecking=accept-new", "BatchMode=yes"} <= set(words)
        (record,) = await running.shop.records("one")
        assert words[-3:-1] == [f"ec2-user@{record.public_dns_name}", "--"]

    async def test_a_workload_that_has_not_begun_says_so_and_its_console_is_shown(self, running: Running) -> None:
        (one,) = await running.launched("one")
        running.ssh(ON_MACHINE)
        await running.shop.sim.write_console(one.id, "[ 1.0] docker: installing\r\n")
        ran = await running.puter("logs", "one")
        assert ran.code == 0
        assert ran.out.endswith("[ 1.0] docker: installing\n")
        assert ran.err.splitlines() == ["puter: one: its workload has not begun yet", "puter: one: its console:"]

    async def test_a_machine_that_does_not_answer_shows_its_console(self, running: Running) -> None:
        (one,) = await running.launched("one")
        running.ssh(UNREACHED)
        await running.shop.sim.write_console(one.id, "".join(f"boot {n}\r\n" for n in range(300)))
        ran = await running.puter("logs", "one")
        few = await running.puter("logs", "one", "--tail", "2", "--json")
        assert (ran.code, ran.out.splitlines()) == (0, [f"boot {n}" for n in range(200, 300)])
        assert ran.err.splitlines() == [f"puter: one: it does not answer ssh ({REFUSED})", "puter: one: its console:"]
        (told,) = few.objects()
        assert (told["source"], told["output"], told["result"]) == ("console", "boot 298\nboot 299\n", None)

    async def test_without_ssh_it_shows_its_console(self, running: Running, tmp_path: Path) -> None:
        (one,) = await running.launched("one")
        await running.shop.sim.write_console(one.id, "boot\r\n")
        running.world.environ["PATH"] = str(tmp_path)
        ran = await running.puter("logs", "one")
        assert (ran.code, ran.out.endswith("boot\n")) == (0, True)
        assert "ssh is not installed on this computer" in ran.err

    async def test_the_console_is_shown_where_it_is_asked_for_or_all_there_is(self, running: Running) -> None:
        (one,) = await running.launched("one")
        (bare,) = await running.launched("bare", run=None)
        running.ssh(ON_MACHINE)
        running.log.write_text("log\n")
        for machine in (one, bare):
            await running.shop.sim.write_console(machine.id, "boot\r\n")
        asked = await running.puter("logs", "one", "--console", "--tail", "1")
        only = await running.puter("logs", "bare", "--tail", "1")
        assert (asked.code, asked.out, asked.err) == (0, "boot\n", "")
        assert (only.code, only.out) == (0, "boot\n")
        assert "it has no workload" in only.err

    async def test_several_show_what_ended_and_what_runs(self, running: Running) -> None:
        _, gone, _ = await running.launched("live", "gone", "silent")
        address = (await running.shop.records("silent"))[0].public_dns_name
        running.ssh(f'case "$*" in *@{address}*) {UNREACHED};; esac; {ON_MACHINE}')
        running.log.write_text("runs\n")
        await running.ends(gone, "ended\n", 3)
        await running.puter("wait", "gone", "--for", "finished")
        ran = await running.puter("logs", "live", "gone", "silent")
        assert (ran.code, ran.out) == (0, "live   | runs\ngone   | ended\n")
        assert ran.err == f"puter: silent: it does not answer ssh ({REFUSED})\n"


class TestFollow:
    async def test_what_comes_is_printed_then_what_the_end_frame_adds(self, running: Running) -> None:
        (one,) = await running.launched("one")
        running.ssh(ON_MACHINE)
        running.log.write_text("1\n2\n")
        async with running.follows("logs", "one", "-f") as process:
            assert [await line(process.stdout) for _ in range(2)] == ["1\n", "2\n"]
            with running.log.open("a") as log:
                log.write("3\n")
            assert await line(process.stdout) == "3\n"
            await running.ends(one, "1\n2\n3\n4\n5\n", 3)
            ran = await over(process)
            assert (ran.code, ran.out, ran.err) == (0, "4\n5\n", "puter: one: workload failed, exit code 3\n")

    async def test_it_begins_with_the_last_lines_and_ends_where_they_end(self, running: Running) -> None:
        (one,) = await running.launched("one")
        running.ssh(ON_MACHINE)
        running.log.write_text("same\n" * 50)
        async with running.follows("logs", "one", "-f", "--tail", "1") as process:
            assert await line(process.stdout) == "same\n"
            await running.ends(one, "same\n" * 52)
            ran = await over(process)
            assert (ran.code, ran.out) == (0, "same\n" * 2)

    async def test_a_connection_that_ends_is_made_again_where_it_ended(self, running: Running) -> None:
        (one,) = await running.launched("one")
        running.ssh(ON_MACHINE.replace("exec sh", "sh").replace(')"', " | sed 's#-F##')\""))
        running.log.write_text("1\n")
        async with running.follows("logs", "one", "-f") as process:
            assert await line(process.stdout) == "1\n"
            running.ssh(ON_MACHINE)
            with running.log.open("a") as log:
                log.write("2\n")
            assert await line(process.stdout) == "2\n"
            await running.ends(one, "1\n2\n")
            ran = await over(process)
            assert (ran.code, ran.out) == (0, "")

    async def test_a_machine_that_does_not_answer_shows_its_console_then_its_output(self, running: Running) -> None:
        (one,) = await running.launched("one")
        running.ssh(UNREACHED)
        await running.shop.sim.write_console(one.id, "boot\r\n")
        async with running.follows("logs", "one", "-f", "--tail", "1") as process:
            assert await line(process.stdout) == "boot\n"
            await running.ends(one, "done\n")
            ran = await over(process)
            assert (ran.code, ran.out) == (0, "done\n")
            assert "puter: one: its output:" in ran.err

    async def test_a_console_is_shown_line_by_line_and_each_line_once(self, running: Running) -> None:
        (one,) = await running.launched("one")
        running.ssh(UNREACHED)
        await running.shop.sim.write_console(one.id, "boot 1\r\nboot 2\r\nlog")
        async with running.follows("logs", "one", "-f", "--tail", "1") as process:
            assert await line(process.stdout) == "boot 2\n"
            await running.shop.sim.write_console(one.id, "in: \r\nboot 3\r\n")
            assert [await line(process.stdout) for _ in range(2)] == ["login: \n", "boot 3\n"]

    async def test_a_machine_that_is_still_to_come_is_waited_for(self, running: Running) -> None:
        running.ssh(ON_MACHINE)
        running.log.write_text("runs\n")
        await running.shop.submit("one", run="work")
        async with running.follows("logs", "one", "-f") as process:
            assert await line(process.stdout) == "runs\n"

    async def test_a_workload_that_has_ended_is_printed_at_once(self, running: Running) -> None:
        (one,) = await running.launched("one")
        await running.ends(one, "done\n")
        await running.puter("wait", "one", "--for", "finished")
        ran = await running.puter("logs", "one", "-f")
        assert (ran.code, ran.out, ran.err) == (0, "done\n", "")

    async def test_ctrl_c_ends_it_and_its_ssh(self, running: Running) -> None:
        await running.launched("one")
        pid = running.log.parent / "pid"
        running.ssh(f"echo $$ > {pid}; {ON_MACHINE}")
        running.log.write_text("1\n")
        async with running.follows("logs", "one", "-f") as process:
            assert await line(process.stdout) == "1\n"
            process.send_signal(signal.SIGINT)
            ran = await over(process)
            assert (ran.code, ran.err) == (130, "")

            async def gone() -> bool:
                return not is_running(int(pid.read_text()))

            await eventually("its ssh has ended", gone)

    async def test_a_batch_is_followed_to_the_end_of_each(self, running: Running) -> None:
        running.ssh(ON_MACHINE)
        running.log.write_text("runs\n")
        machines = await running.launched("a", "bb", "c")
        async with running.follows("logs", "--batch", "last", "-f") as process:
            first = sorted([await line(process.stdout) for _ in range(3)])
            for one in machines:
                await running.ends(one, "runs\nended\n", 3)
            ran = await over(process)
            assert first == ["a  | runs\n", "bb | runs\n", "c  | runs\n"]
            assert (ran.code, sorted(ran.out.splitlines())) == (0, ["a  | ended", "bb | ended", "c  | ended"])
            assert ran.err.count("workload failed, exit code 3") == 3

    async def test_of_many_that_do_not_answer_the_outputs_are_printed_at_their_ends(self, running: Running) -> None:
        running.ssh(UNREACHED)
        machines = await running.launched("a", "bb")
        async with running.follows("logs", "a", "bb", "-f") as process:
            for one in machines:
                await running.ends(one, "ended\n")
            ran = await over(process)
        assert (ran.code, sorted(ran.out.splitlines()), ran.err) == (0, ["a  | ended", "bb | ended"], "")

    async def test_failed_prints_each_that_fails_when_it_does(self, running: Running) -> None:
        running.ssh("exit 255")
        good, bad = await running.launched("good", "bad")
        async with running.follows("logs", "--batch", "last", "-f", "--failed") as process:
            await running.ends(bad, "oops\n", 3)
            assert await line(process.stdout) == "bad  | oops\n"
            await running.ends(good, "fine\n")
            ran = await over(process)
            assert (ran.code, ran.out) == (0, "")

    async def test_a_workload_that_is_run_again_is_followed_on_its_next_machine(self, running: Running) -> None:
        (one,) = await running.launched("one", retries=1, retry_on=("failed",))
        for name in ("first", "second"):
            (running.log.parent / name).mkdir()
            (running.log.parent / name / "workload.log").write_text(f"{name}\n")
        running.ssh(f'case "$*" in *{one.id}*) LOGS=$LOGS/first;; *) LOGS=$LOGS/second;; esac; {ON_MACHINE}')
        async with running.follows("logs", "one", "-f") as process:
            assert await line(process.stdout) == "first\n"
            await running.ends(one, "first\nits end\n", 3)
            assert [await line(process.stdout) for _ in range(2)] == ["its end\n", "second\n"]
            assert "its workload is run again on another machine (failed)" in await line(process.stderr)


async def up_until_it_ends(running: Running, *end: Any) -> Ran:
    """`puter up` that waits for its workload, which ends in this way (see Running.ends)."""
    words = ["up", "one", "--run", "work", "--ssh-from", "none", "--wait", "finished"]
    async with running.follows(*words) as process:

        async def runs() -> bool:
            return [one.phase for one in await running.shop.records("one")] == [Phase.RUNNING]

        await eventually("its machine runs", runs)
        (one,) = await running.shop.living()
        await running.ends(one, *end)
        return await over(process)


class TestUp:
    async def test_a_workload_that_succeeded_names_its_output_and_no_way_to_a_machine_that_is_gone(
        self, running: Running
    ) -> None:
        ran = await up_until_it_ends(running, "fine\n")
        assert ran.code == 0
        assert "workload  succeeded; its output: puter logs one\nended     " in ran.out
        assert "ssh -i" not in ran.out

    async def test_a_workload_that_failed_shows_its_exit_code_and_its_last_lines(self, running: Running) -> None:
        ran = await up_until_it_ends(running, "".join(f"line {n}\n" for n in range(9)) + "\x1b[2Joops\n", 3)
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.splitlines()[-7:] == [
            "puter: one: terminated: workload failed, exit code 3",
            *(f"  | line {n}" for n in range(5, 9)),
            "  | \ufffd[2Joops",
            "puter: all that is known of its output: puter logs one",
        ]


def test_what_it_needs_is_loaded_late() -> None:
    code = "import puter_client.cli.logs, sys; print('asyncio' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
