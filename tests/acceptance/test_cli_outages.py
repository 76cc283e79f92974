"""A Redis that restarts, hangs or was emptied, as the commands of its users see it."""

from __future__ import annotations

import asyncio
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from puter_client.cli import session
from puter_client.cli.follow import InFlight, follow, run
from puter_client.cli.wait import _wait
from puter_client.client import MachineRequest, PuterClient
from puter_client.config import Config, client_settings
from puter_client.contract.batch import BatchInfo, BatchRow
from puter_client.contract.errors import StoreUnavailable
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.contract.result import Result
from puter_client.contract.spec import Spec
from puter_client.store import names
from puter_client.timings import ClientTimings
from puter_client.watch import Watch
from tests.acceptance.cli_world import PATIENCE_S, PUTER, ROOT, CliWorld
from tests.acceptance.published import NAMESPACE, Published
from tests.acceptance.test_cli_shared import work
from tests.integration.engine_world import wait_for
from tests.integration.redis_servers import RedisServer, running_server, server_binaries

AWAY = "does not answer; trying again for "
BACK = "answers again"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis that a test may kill."""
    with running_server(server_binaries()["valkey"]) as started:
        yield started


@pytest.fixture
def own(server: RedisServer, tmp_path: Path) -> Iterator[Published]:
    """What workers have published there; one of them seems to be there."""
    world = Published(server, tmp_path)
    world.ready_worker()
    yield world
    world.redis.close()


class Waiting:
    """A command that runs."""

    def __init__(self, world: CliWorld, words: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [*PUTER, *words],
            env=world.environ,
            cwd=world.home.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.err: list[str] = []
        self.out = ""

    def _read(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            self._lines.put(line)
        self._lines.put("")

    def says(self, text: str) -> None:
        """Return when it has said this."""
        while not any(text in line for line in self.err):
            line = self._lines.get(timeout=PATIENCE_S)
            assert line, f"it ended without saying {text!r}: {self.err}"
            self.err.append(line)

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Ctrl-Z, and after what is inside `fg`."""
        self._process.send_signal(signal.SIGSTOP)
        yield
        self._process.send_signal(signal.SIGCONT)

    def ended(self) -> int:
        """Its exit code, once it has ended."""
        assert self._process.stdout
        self.out = self._process.stdout.read()
        code = self._process.wait(PATIENCE_S)
        self._reader.join()
        while line := self._lines.get():
            self.err.append(line)
        return code

    def close(self) -> None:
        """End it, if a test has failed."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdout, self._process.stderr):
            if stream:
                stream.close()


@contextmanager
def waiting(world: CliWorld, *words: str) -> Iterator[Waiting]:
    command = Waiting(world, words)
    try:
        yield command
    finally:
        command.close()


def record(world: Published, phase: Phase, **fields: object) -> Record:
    return Record(
        namespace=NAMESPACE, tag="one", phase=phase, created_at=world.now, changed_at=world.now, batch_id="b-1"
    ).replace(**fields)


def ended(world: Published) -> Record:
    return record(world, Phase.TERMINATED, ended_at=world.now, has_workload=True, result=Result.SUCCEEDED)


def subscribers(world: Published) -> int:
    """How many commands are subscribed to what changes."""
    counts: Any = world.redis.pubsub_numsub(names.channel(NAMESPACE))
    return int(counts[0][1])


def requests(world: Published) -> list[bytes]:
    """What is in the inbox."""
    raws: Any = world.redis.lrange(names.inbox(NAMESPACE), 0, -1)
    return list(raws)


# -- it restarts ------------------------------------------------------------------------------------------------------

Change = Callable[[Published], Record]
WAITS: dict[str, tuple[list[str], Change, int]] = {
    "wait": (["wait", "one", "--for", "finished"], ended, 0),
    "wait for a batch": (["wait", "--batch", "b-1", "--for", "finished"], ended, 0),
    "wait for all": (["wait", "--for", "terminated"], ended, 0),
    "logs": (["logs", "one", "-f"], ended, 1),  # nothing is known of its output
    "cancel": (["cancel", "one"], lambda world: record(world, Phase.CANCELLED, ended_at=world.now), 0),
    "stop": (["stop", "one"], ended, 0),
    "extend": (["extend", "one", "+2h"], ended, 1),  # it does not run any more
}


def it_waits(world: Published, words: list[str]) -> None:
    """Return once a command waits for what comes of it."""
    if words[0] in ("wait", "logs"):
        wait_for(lambda: subscribers(world) > 0, "its subscription")
    else:
        wait_for(lambda: len(requests(world)) > 0, "its request")


@pytest.mark.parametrize(("words", "change", "code"), WAITS.values(), ids=WAITS)
def test_what_waits_outlasts_a_redis_that_restarts(
    own: Published, server: RedisServer, words: list[str], change: Change, code: int
) -> None:
    begun = Phase.RUNNING if words[0] == "extend" else Phase.QUEUED
    own.records(record(own, begun, has_workload=True))
    info = BatchInfo(batch_id="b-1", namespace=NAMESPACE, size=1, owner="betty", created_at=own.now)
    own.batch(info, {"one": BatchRow(outcome=Outcome.CREATED, request_number=1)})
    with waiting(own.world, *words) as command:
        it_waits(own, words)
        server.kill()
        command.says(AWAY)
        server.start()
        own.records(change(own))  # and no message of it
        assert command.ended() == code, command.err

    assert len(set(requests(own))) <= 1  # one in doubt may have come twice
    assert any(BACK in line for line in command.err)


def test_a_watch_goes_on(own: Published, server: RedisServer) -> None:
    own.records(record(own, Phase.QUEUED))
    with waiting(own.world, "status", "--watch") as command:
        wait_for(lambda: looks(own) > 0, "a look")
        server.kill()
        command.says(AWAY)
        server.start()
        own.records(ended(own))
        command.says(BACK)
        before = looks(own)
        wait_for(lambda: looks(own) > before + 1, "another look, that is shown")
        command.interrupt()
        assert command.ended() == 130, command.err

    assert "succeeded" in command.out


def looks(world: Published) -> int:
    """How often a record was read since the server started."""
    stats: Any = world.redis.info("commandstats")
    return int(stats.get("cmdstat_hget", {"calls": 0})["calls"])


@pytest.mark.parametrize(
    "words", [["up", "x-0", "--wait", "launched"], ["submit", "--tag", "x-{i}", "--count", "3", "--wait", "launched"]]
)
def test_what_was_requested_is_launched_after_it(
    fresh: CliWorld, own: Published, server: RedisServer, words: list[str]
) -> None:
    fresh.environ["PUTER_REDIS_URL"] = server.url
    with waiting(fresh, *words) as command:
        wait_for(lambda: len(requests(own)) > 0, "the requests")
        server.kill()
        command.says(AWAY)
        server.start()
        work(fresh, server)
        assert command.ended() == 0, command.err

    assert any(BACK in line for line in command.err)


@pytest.mark.parametrize("words", [["wait", "one", "--for", "finished"], ["stop", "one"]], ids=" ".join)
def test_a_command_that_was_suspended_takes_its_own_pause_for_no_outage(own: Published, words: list[str]) -> None:
    own.records(record(own, Phase.QUEUED, has_workload=True))
    with waiting(own.world, *words) as command:
        it_waits(own, words)
        with command.suspended():
            time.sleep(7.0)  # longer than any answer of Redis may take
            own.records(ended(own))
        assert command.ended() == 0, command.err

    assert AWAY not in "".join(command.err)


def test_a_redis_that_has_never_answered_is_not_waited_for(own: Published, server: RedisServer) -> None:
    server.kill()
    for words in (["wait", "one"], ["up", "one"], ["status", "--watch"]):
        ran = own.world.puter(*words)
        assert (ran.code, AWAY in ran.err, "nothing accepts connections there" in ran.err) == (3, False, True)


def test_after_30_s_it_says_that_the_requests_go_on(
    own: Published, server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    own.records(record(own, Phase.QUEUED))
    settings = client_settings(own.world.environ, namespace=None, config=Config(), paths=own.world.paths)
    in_flight = InFlight(settings, tags=["one"])
    in_flight.is_sent()
    timings = ClientTimings(outlast_s=0.5, outlast_again_s=0.1, read_again_s=0.1)

    async def wait() -> int:
        async with session.connected(settings, waits=True, timings=timings) as client:
            await client.recent()
            server.kill()
            await follow(client, in_flight, timeout_s=None, tags=["one"])
        return 0

    assert run(wait, in_flight) == 3
    told = capsys.readouterr().err
    assert AWAY in told
    assert "what was requested goes on without this command" in told
    assert "resume with:\n  puter wait one" in told


def test_time_that_is_up_ends_a_wait_that_redis_holds_up(own: Published, server: RedisServer) -> None:
    own.records(record(own, Phase.QUEUED))
    with waiting(own.world, "wait", "one", "--timeout", "3s") as command:
        wait_for(lambda: subscribers(own) > 0, "its subscription")
        server.kill()
        assert command.ended() == 4, command.err


@pytest.mark.parametrize("question", ["views", "workers", "wait", "read"])  # in this order, after the first answer
def test_time_that_is_up_ends_a_wait_whatever_it_was_just_asking(
    own: Published, server: RedisServer, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.records(record(own, Phase.QUEUED))
    owner = Watch if question == "read" else PuterClient
    asks = getattr(owner, question)

    async def killed_first(*args: Any, **named: Any) -> Any:
        server.kill()
        return await asks(*args, **named)

    monkeypatch.setattr(owner, question, killed_first)
    settings = client_settings(own.world.environ, namespace=None, config=Config(), paths=own.world.paths)
    in_flight = InFlight(settings, tags=["one"])
    assert run(lambda: _wait(settings, in_flight, None, 1.0, False), in_flight) == 4


async def test_a_look_does_not_wait(own: Published, server: RedisServer) -> None:
    async with PuterClient.connect(server.url, namespace=NAMESPACE, user="betty") as client:
        await client.recent()
        server.kill()
        with pytest.raises(StoreUnavailable, match="nothing accepts connections there"):
            await client.recent()


# -- a connection breaks while a request is on its way ----------------------------------------------------------------


@asynccontextmanager
async def losing_one_answer(server: RedisServer, path: Path, *, after: bool) -> AsyncIterator[None]:
    """A socket before a server; the first EXEC, or its answer, is lost with its connection."""
    lost, serving = asyncio.Event(), set[asyncio.Task[object]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (task := asyncio.current_task()) is not None:
            serving.add(task)
        from_redis, to_redis = await asyncio.open_unix_connection(server.url.removeprefix("unix://"))
        answering = asyncio.create_task(pass_on(from_redis, writer))
        try:
            while data := await reader.read(65_536):
                losing = b"EXEC" in data and not lost.is_set()
                if losing:
                    lost.set()
                    answering.cancel()
                    await asyncio.wait([answering])
                if not losing or after:
                    to_redis.write(data)
                if losing:
                    if after:
                        await from_redis.read(1)
                    break
        finally:
            answering.cancel()
            await asyncio.wait([answering])
            for one in (to_redis, writer):
                one.close()
                with suppress(OSError):
                    await one.wait_closed()

    async def pass_on(from_redis: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await from_redis.read(65_536):
            writer.write(data)

    async with await asyncio.start_unix_server(serve, path):
        yield
        await asyncio.wait(serving)


@pytest.mark.parametrize("after", [False, True], ids=["it has not arrived", "its answer is lost"])
async def test_a_request_in_doubt_is_sent_again(server: RedisServer, tmp_path: Path, after: bool) -> None:
    path, told = tmp_path / "before", list[str]()
    client = PuterClient.connect(f"unix://{path}", namespace=NAMESPACE, user="b", tell=told.append)
    async with losing_one_answer(server, path, after=after), client:
        await client.submit([MachineRequest("one", Spec())])

    with server.client() as redis:
        raws = redis.lrange(names.inbox(NAMESPACE), 0, -1)
    assert len(raws) == (2 if after else 1)
    assert len(set(raws)) == 1  # workers decide it once


# -- it hangs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["status"], ["submit", "--tag", "x", "--ssh-from", "none"], ["wait", "x"]])
def test_a_suspended_redis_is_named(own: Published, server: RedisServer, words: list[str]) -> None:
    assert server.process
    server.process.send_signal(signal.SIGSTOP)
    try:
        ran = own.world.puter(*words)
    finally:
        server.process.send_signal(signal.SIGCONT)

    assert (ran.code, "does not answer in time: check that it runs and is not suspended" in ran.err) == (3, True)
    assert AWAY not in ran.err


# -- it was emptied ---------------------------------------------------------------------------------------------------


@pytest.fixture
def worker(fresh: CliWorld, server: RedisServer) -> Iterator[None]:
    """A worker process that serves."""
    fresh.environ["PUTER_REDIS_URL"] = server.url
    with (fresh.home.parent / "worker.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "puter_worker"], env=fresh.environ, cwd=ROOT, stderr=log)
    try:
        with server.client() as redis:
            wait_for(lambda: redis.zcard(names.WORKERS) > 0, "the worker")
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["status"], 0),
        (["status", "--json"], 0),
        (["submit", "--tag", "x-{i}", "--count", "3", "--ssh-from", "none"], 0),
        (["up", "x", "--ssh-from", "none", "--wait", "queued"], 0),
        (["cancel", "x"], 1),
        (["stop", "x"], 0),
    ],
)
def test_no_command_says_that_no_worker_runs(fresh: CliWorld, server: RedisServer, words: list[str], code: int) -> None:
    with server.client() as redis:
        redis.flushall()
    ran = fresh.puter(*words)

    assert (ran.code, "no worker" in ran.out + ran.err) == (code, False), ran.err
