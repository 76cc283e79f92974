"""Users of a shared Redis, with the rules that `puter admin user add` gives them: what each can do, and what not."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
import redis
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from puter_client.acl.rules import FIRST_LINES, SERVICES, Role, rules
from puter_client.client import MachineRequest, PuterClient
from puter_client.contract.console import Console
from puter_client.contract.errors import NotPermitted, StoreUnavailable
from puter_client.contract.inbox import Inbox
from puter_client.contract.key import PuterKey
from puter_client.contract.outcome import Outcome
from puter_client.contract.output import Output
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.contract.spec import Spec
from puter_client.store import names as public
from puter_client.store.clientstore import ClientStore
from puter_client.view import View, WaitFor
from puter_worker.clock import Clock
from puter_worker.store import names
from puter_worker.store.arq_adapter import JOB_PREFIX, QUEUE
from puter_worker.store.store import Store
from puter_worker.timings import Timings
from tests.integration.redis_servers import RedisServer
from tests.integration.workshop import Workshop, spec

PASSWORD = "a-secret"
NOT_PERMITTED = r"does not permit this to the user of .*--namespace or PUTER_NAMESPACE.*may only read"
# Users and what each is for; clients and viewers are of namespace `betty`.
USERS = {"betty": Role.CLIENT, "betty-viewer": Role.VIEWER, **{str(role): role for role in SERVICES}}
(HEALTH,) = [line.split(" ", 2)[2] for line in FIRST_LINES if line.startswith("user health ")]


class Guarded:
    """A server with a user of each role; `default` keeps all rights, for looking behind."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server

    def url(self, user: str) -> str:
        """The server's address as one of its users has it."""
        return self.server.url.replace("unix://", f"unix://{user}:{PASSWORD}@")

    def client(self, user: str) -> redis.Redis:
        """A plain client that is this user."""
        return redis.Redis.from_url(self.url(user))

    def puter(self, user: str, namespace: str) -> PuterClient:
        """Puter's client, as this user, in a namespace."""
        return PuterClient.connect(self.url(user), namespace=namespace, user=user)


@pytest.fixture
def guarded(any_redis: RedisServer) -> Iterator[Guarded]:
    """Each kind of server found here, with users; the rules are gone with the test."""
    users = [*USERS, "health"]
    with any_redis.client() as admin:
        for name in USERS:
            admin.execute_command("ACL", "SETUSER", name, "on", f">{PASSWORD}", *_words(_rules(name, any_redis)))
        admin.execute_command("ACL", "SETUSER", "health", *_words(HEALTH))
        yield Guarded(any_redis)
        admin.execute_command("ACL", "DELUSER", *users)


def _is_redis_7_0(server: RedisServer) -> bool:
    with server.client() as admin:
        info = admin.info("server")
        return "valkey_version" not in info and str(info["redis_version"]).startswith("7.0.")


def _rules(name: str, server: RedisServer) -> str:
    return rules(USERS[name], user=name, namespace="betty", redis_7_0=_is_redis_7_0(server))


def _words(text: str) -> list[str]:
    """Rules as ACL SETUSER takes them: a selector in parentheses is one word."""
    return re.findall(r"\([^)]*\)|[^ ]+", text)


@pytest.fixture
def betty(guarded: Guarded) -> Iterator[redis.Redis]:
    """A client of namespace `betty`."""
    with guarded.client("betty") as client:
        yield client


@pytest.fixture
async def puter(guarded: Guarded) -> AsyncIterator[PuterClient]:
    """Puter's own client in namespace `betty`."""
    async with guarded.puter("betty", "betty") as client:
        yield client


# -- a client ---------------------------------------------------------------------------------------------------------


async def test_a_client_appends_requests_to_its_own_inbox(guarded: Guarded, puter: PuterClient) -> None:
    await puter.submit([MachineRequest("one", Spec()), MachineRequest("two", Spec())])

    with guarded.server.client() as admin:
        assert admin.llen(public.inbox("betty:betty")) == 2
        assert admin.smembers(public.READY) == {b"betty:betty"}


async def test_a_machine_belongs_to_the_redis_user_whatever_the_client_says(
    workshop: Workshop, guarded: Guarded
) -> None:
    store = ClientStore.connect(guarded.url("betty"))
    async with (
        PuterClient(store, namespace="betty", user="alice") as claims_to_be_alice,
        workshop.working(redis_url=guarded.url("worker")),
    ):
        (view,) = await _requested(claims_to_be_alice, "one")

    assert view.record
    assert view.record.owner == "betty"
    (machine,) = workshop.instances("running")
    assert {"Key": "puter:owner", "Value": "betty"} in machine["Tags"]


async def test_another_users_name_in_the_ready_set_changes_nothing(
    workshop: Workshop, guarded: Guarded, betty: redis.Redis, puter: PuterClient
) -> None:
    betty.sadd(public.READY, "betty:alice", "ann:ann", "ann", "betty")
    async with workshop.working(redis_url=guarded.url("worker")):
        await _requested(puter, "one")

    with guarded.server.client() as admin:
        assert admin.smembers(public.READY) == set()


async def test_a_client_reads_all_that_its_namespace_publishes(puter: PuterClient) -> None:
    await puter.recent()
    await puter.recent(everything=True)
    await puter.views(["one"])
    await puter.events("one")
    await puter.batches()
    await puter.batch("b1")

    assert await puter.workers() == []


async def test_a_client_and_a_viewer_read_what_machines_of_their_namespace_have_shown(guarded: Guarded) -> None:
    one = View(namespace="betty", tag="one", record=_record())
    output, console = (
        Output(generation=1, text="done\n", total_bytes=5),
        Console(generation=1, read_at=9e9, text="boot"),
    )
    with guarded.server.client() as admin:
        admin.set(public.output(PuterKey("betty", "one")), msgspec.json.encode(output))
        admin.set(public.console(PuterKey("betty", "one")), msgspec.json.encode(console))
    for user in ("betty", "betty-viewer"):
        async with guarded.puter(user, "betty") as client:
            assert await client.outputs([one]) == {"one": output}
            assert await client.console(_record()) == console


async def test_a_viewer_can_ask_for_no_console(guarded: Guarded) -> None:
    async with guarded.puter("betty-viewer", "betty") as viewer:
        with pytest.raises(StoreUnavailable, match=NOT_PERMITTED):
            await viewer.console(_record())


async def test_a_worker_reads_a_console_with_no_more_than_its_rights(
    workshop: Workshop, guarded: Guarded, puter: PuterClient
) -> None:
    async with workshop.working(redis_url=guarded.url("worker")):
        (view,) = await _requested(puter, "one")
        assert view.record
        console = await puter.console(view.record)

    assert (console.generation, console.problem) == (1, None)


async def test_a_client_sees_how_many_of_its_requests_wait(guarded: Guarded, puter: PuterClient) -> None:
    await puter.submit([MachineRequest("one", Spec())])

    with guarded.client("betty") as client:
        assert client.llen(public.inbox("betty:betty")) == 1


async def test_a_client_is_told_of_changes_in_its_namespace(guarded: Guarded) -> None:
    store = ClientStore.connect(guarded.url("betty"))
    with guarded.server.client() as admin:
        async with store.changes("betty") as changes:
            told: set[str] | None = set()
            async with asyncio.timeout(120):
                while not told:  # who publishes before the subscription is there is not heard
                    admin.publish(public.channel("betty"), "one")
                    told = await changes.wait(0.1)
    assert told == {"one"}
    await store.aclose()


@pytest.mark.parametrize(
    "command",
    [
        ("HSET", public.record(PuterKey("betty", "one")), "doc", "{}"),
        ("DEL", public.record(PuterKey("betty", "one"))),
        ("LPOP", public.inbox("betty:betty")),
        ("DEL", public.inbox("betty:betty")),
        ("LRANGE", public.inbox("betty:betty"), 0, -1),
        ("RPUSH", public.inbox("betty"), "{}"),
        ("RPUSH", public.inbox("betty:ann"), "{}"),
        ("RPUSH", public.inbox("betty:betty2"), "{}"),
        ("RPUSH", public.inbox("ann:betty"), "{}"),
        ("RPUSH", public.inbox("ann"), "{}"),
        ("LLEN", public.inbox("betty")),
        ("LLEN", public.inbox("betty:ann")),
        ("LLEN", public.inbox("ann:ann")),
        ("SREM", public.READY, "ann"),
        ("SMEMBERS", public.READY),
        ("HGET", public.record(PuterKey("ann", "one")), "doc"),
        ("GET", public.output(PuterKey("ann", "one"))),
        ("GET", public.console(PuterKey("ann", "one"))),
        ("SET", public.output(PuterKey("betty", "one")), "{}"),
        ("SET", public.console(PuterKey("betty", "one")), "{}"),
        ("GET", names.spec(PuterKey("betty", "one"))),
        ("ZADD", QUEUE, 0, "betty/one"),
        ("SET", f"{JOB_PREFIX}betty/one", "x"),
        ("PUBLISH", public.channel("betty"), "one"),
        ("PUBLISH", names.WAKE, ""),
        ("SUBSCRIBE", public.channel("ann")),
        ("SUBSCRIBE", public.READY),
        ("EVAL", "return 1", 0),
        ("SCRIPT", "LOAD", "return 1"),
        ("FUNCTION", "LIST"),
        ("KEYS", "*"),
        ("SCAN", 0),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("CLIENT", "LIST"),
        ("MONITOR",),
        ("INFO",),
    ],
    ids=lambda command: " ".join(str(word) for word in command[:2]),
)
def test_a_client_cannot(betty: redis.Redis, command: tuple[str | int, ...]) -> None:
    with pytest.raises(NoPermissionError):
        betty.execute_command(*command)  # type: ignore[no-untyped-call]


def test_a_client_cannot_make_the_bell_something_else(betty: redis.Redis) -> None:
    # An empty set is no key at all: whoever could RPUSH to it would stop every worker and every other client.
    with pytest.raises(NoPermissionError):
        betty.rpush(public.READY, "betty")


def test_a_client_cannot_make_its_inbox_something_else(betty: redis.Redis) -> None:
    with pytest.raises(NoPermissionError):
        betty.sadd(public.inbox("betty:betty"), "x")


async def test_a_client_of_another_namespace_is_refused_in_one_line(guarded: Guarded) -> None:
    async with guarded.puter("betty", "ann") as stranger:
        with pytest.raises(NotPermitted, match=NOT_PERMITTED):
            await stranger.submit([MachineRequest("one", Spec())])


# -- a viewer ---------------------------------------------------------------------------------------------------------


async def test_a_viewer_reads_a_namespace(guarded: Guarded) -> None:
    async with guarded.puter("betty-viewer", "betty") as viewer:
        assert await viewer.recent() == []


async def test_a_viewer_can_request_for_nothing(guarded: Guarded) -> None:
    async with guarded.puter("betty-viewer", "betty") as viewer:
        with pytest.raises(NotPermitted, match=NOT_PERMITTED):
            await viewer.submit([MachineRequest("one", Spec())])


# -- no user, or the wrong one ----------------------------------------------------------------------------------------


@pytest.fixture
def without_default(guarded: Guarded) -> Iterator[Guarded]:
    """A server that refuses who names no user, as that of `deploy/` does."""
    with guarded.server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "default", "off")
        try:
            yield guarded
        finally:
            admin.execute_command("ACL", "SETUSER", "default", "on")


async def test_who_names_no_user_is_told_so_where_one_is_needed(without_default: Guarded) -> None:
    """At once: Redis refuses all that a connection begins with, too."""
    async with PuterClient.connect(without_default.server.url, namespace="betty", user="betty") as nobody:
        with pytest.raises(StoreUnavailable, match="requires a user and a password: add them to the Redis URL"):
            await asyncio.wait_for(nobody.recent(), 10)


def test_a_worker_that_names_no_user_ends_with_one_line(without_default: Guarded, tmp_path: Path) -> None:
    told = refused_worker(without_default.server.url, tmp_path)

    assert told.endswith("requires a user and a password: add them to PUTER_REDIS_URL\n")


def test_a_worker_with_a_wrong_password_ends_with_one_line(guarded: Guarded, tmp_path: Path) -> None:
    told = refused_worker(guarded.url("worker").replace(PASSWORD, "not-it"), tmp_path)

    assert "refuses the user or the password: check both in PUTER_REDIS_URL" in told
    assert "not-it" not in told


def test_a_worker_that_is_a_client_ends_with_one_line(guarded: Guarded, tmp_path: Path) -> None:
    told = refused_worker(guarded.url("betty"), tmp_path)

    assert "does not permit this to the user of PUTER_REDIS_URL: it must name a user with a worker's rights" in told


def test_a_worker_names_the_file_that_holds_its_url(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('redis_url = "redis://127.0.0.1:1"\n')

    told = refused_worker("", tmp_path, "puter_client.cli", "worker")

    assert told.endswith(f"host and port in redis_url in {tmp_path}/config.toml\n")


def refused_worker(url: str, home: Path, *command: str) -> str:
    """What a worker says that ends with exit code 3, on one line."""
    ran = worker_ran(url, home, *command)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (3, 1), ran.stderr
    return ran.stderr


def worker_ran(url: str, home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A worker that has ended, because it was refused or nothing was left to do."""
    return subprocess.run(
        [sys.executable, "-m", *(command or ["puter_worker"]), "--burst"],
        env={"PATH": os.environ["PATH"], "PUTER_REDIS_URL": url, "PUTER_HOME": str(home)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# -- nobody -----------------------------------------------------------------------------------------------------------


def test_the_health_check_can_ping_and_nothing_else(guarded: Guarded) -> None:
    with redis.Redis.from_url(guarded.url("health")) as health:
        assert health.ping()
        with pytest.raises(NoPermissionError):
            health.time()


# -- a worker ---------------------------------------------------------------------------------------------------------


async def test_a_worker_grants_a_request_with_no_more_than_its_rights(
    workshop: Workshop, guarded: Guarded, puter: PuterClient
) -> None:
    async with workshop.working(redis_url=guarded.url("worker")):
        views = await _requested(puter, "one", "two", "three")

    assert [view.outcome for view in views] == [Outcome.CREATED] * 3
    assert len(workshop.instances("running")) == 3


async def test_a_worker_is_refused_nothing_from_a_launch_to_its_label(
    workshop: Workshop, guarded: Guarded, puter: PuterClient
) -> None:
    tags = [f"t{n}" for n in range(6)]  # more than EC2's bucket has calls: they are launched as a group, then labelled
    with guarded.server.client() as admin:
        admin.execute_command("ACL", "LOG", "RESET")
        async with workshop.working(redis_url=guarded.url("worker"), pace=True):
            await _requested(puter, *tags)
            async with asyncio.timeout(120):
                while not all(view.record and view.record.labelled for view in await puter.views(tags)):
                    await asyncio.sleep(0.05)  # until it is so; labels are told on no channel of this user's

        log = admin.execute_command("ACL", "LOG")
    refused = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in log]
    assert [entry for entry in refused if entry[b"username"] == b"worker"] == []


async def test_a_worker_finds_and_cuts_a_large_inbox_with_no_more_than_its_rights(guarded: Guarded) -> None:
    with guarded.client("betty") as betty:
        for _ in range(40):
            betty.rpush(public.inbox("betty:betty"), b"x" * 1_000_000)  # and not into the ready set
    async with Redis.from_url(guarded.url("worker")) as connected:
        requests = Store(connected, clock=Clock(), timings=Timings()).requests
        found, cursor = await requests.inboxes()

        assert (found, cursor) == (["betty:betty"], 0)
        assert await requests.cut(Inbox.parse(*found)) == 20


@pytest.mark.parametrize(
    ("policy", "warned"),
    [("noeviction", []), ("allkeys-lru", ["allkeys-lru"]), ("volatile-ttl", ["volatile-ttl"])],
)
def test_a_worker_warns_of_a_redis_that_deletes_when_it_is_full(
    guarded: Guarded, tmp_path: Path, policy: str, warned: list[str]
) -> None:
    with guarded.server.client() as admin:
        admin.config_set("maxmemory-policy", policy)
        try:
            ran = worker_ran(guarded.url("worker"), tmp_path)
        finally:
            admin.config_set("maxmemory-policy", "noeviction")

    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    warnings = [line for line in lines if line["event"] == "redis.may_evict"]
    assert ran.returncode == 0, ran.stderr
    assert [line["maxmemory_policy"] for line in warnings] == warned
    assert all(line["level"] == "warning" and "maxmemory-policy noeviction" in line["remedy"] for line in warnings)


def test_a_worker_cannot_list_or_empty_the_redis(guarded: Guarded) -> None:
    with guarded.client("worker") as worker:
        for command in ("FLUSHALL", "FLUSHDB", "KEYS *", "CONFIG SET save x", "ACL LIST", "SHUTDOWN", "EVAL return 0"):
            with pytest.raises(NoPermissionError):
                worker.execute_command(*command.split(" "))


# -- the administrator, replicas and Sentinels -----------------------------------------------------------------------

RECORD = public.record(PuterKey("ann", "one"))


@pytest.mark.parametrize(
    "command",
    [
        ("ACL", "LIST"),
        ("ACL", "USERS"),
        ("ACL", "WHOAMI"),
        ("ACL", "GETUSER", "worker"),
        ("CONFIG", "GET", "appendonly"),
        ("CLIENT", "LIST"),
        ("INFO",),
        ("HSET", RECORD, "doc", "{}"),
        ("DEL", RECORD),
        ("LRANGE", public.inbox("ann:ann"), 0, -1),
        ("DEL", public.inbox("ann:ann")),
        ("ZADD", QUEUE, 0, "ann/one"),
        ("SCAN", 0),
        ("BGREWRITEAOF",),
        ("MEMORY", "USAGE", RECORD),
        ("SLOWLOG", "GET"),
        ("SUBSCRIBE", names.WAKE),
        ("PUBLISH", names.WAKE, ""),
    ],
    ids=lambda command: " ".join(str(word) for word in command[:2]),
)
def test_the_administrator_can(guarded: Guarded, command: tuple[str | int, ...]) -> None:
    with guarded.client("admin") as admin:
        admin.execute_command(*command)


@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("SHUTDOWN",),
        ("DEBUG", "SLEEP", "0"),
        ("MODULE", "LIST"),
        ("SCRIPT", "FLUSH"),
        ("FUNCTION", "FLUSH"),
        ("EVAL", "return 1", 0),
        ("CONFIG", "REWRITE"),
        ("ACL", "SETUSER", "admin", "+@all"),
        ("ACL", "DELUSER", "worker"),
        ("ACL", "SAVE"),
        ("REPLICAOF", "NO", "ONE"),
        ("MONITOR",),
        ("KEYS", "*"),
        ("GET", "somebody-elses"),
        ("SUBSCRIBE", "somebody-elses"),
    ],
    ids=lambda command: " ".join(str(word) for word in command[:2]),
)
def test_the_administrator_cannot(guarded: Guarded, command: tuple[str | int, ...]) -> None:
    with guarded.client("admin") as admin, pytest.raises(NoPermissionError):
        admin.execute_command(*command)


def test_the_administrator_changes_settings_but_not_where_files_are(guarded: Guarded) -> None:
    with guarded.client("admin") as admin:
        admin.config_set("maxmemory", "2gb")
        assert admin.config_get("maxmemory") == {"maxmemory": str(2 << 30)}
        for name in ("dir", "aclfile", "dbfilename", "enable-debug-command"):
            with pytest.raises(ResponseError, match=r"protected|immutable"):
                admin.config_set(name, "x")
        admin.config_set("maxmemory", "0")


def test_a_replica_follows_and_does_nothing_else(guarded: Guarded) -> None:
    with guarded.client("replica") as replica:
        for command in (("GET", RECORD), ("KEYS", "*"), ("INFO",), ("ACL", "LIST"), ("FLUSHALL",)):
            with pytest.raises(NoPermissionError):
                replica.execute_command(*command)
    with socket.socket(socket.AF_UNIX) as follower:
        follower.connect(guarded.server.url.removeprefix("unix://"))
        follower.settimeout(30)
        answers = []
        for line in (f"AUTH replica {PASSWORD}", "REPLCONF capa psync2", "PSYNC ? -1"):
            follower.sendall(f"{line}\r\n".encode())
            answers.append(follower.recv(4096).strip())  # also the newlines of a primary that prepares its answer
            while not answers[-1]:
                answers[-1] = follower.recv(4096).strip()
    assert answers[:2] == [b"+OK", b"+OK"]
    assert answers[2].startswith(b"+FULLRESYNC ")


@pytest.mark.parametrize(
    "command",
    [
        ("GET", RECORD),
        ("SET", RECORD, "x"),
        ("KEYS", "*"),
        ("CONFIG", "GET", "*"),
        ("CONFIG", "SET", "maxmemory", "1"),
        ("ACL", "LIST"),
        ("CLIENT", "LIST"),
        ("EVAL", "return 1", 0),
        ("PUBLISH", public.channel("ann"), "one"),
        ("SUBSCRIBE", public.channel("ann")),
        ("FLUSHALL",),
        ("SHUTDOWN",),
    ],
    ids=lambda command: " ".join(str(word) for word in command[:2]),
)
def test_a_sentinel_cannot(guarded: Guarded, command: tuple[str | int, ...]) -> None:
    with guarded.client("sentinel") as sentinel, pytest.raises(NoPermissionError):
        sentinel.execute_command(*command)


def test_a_worker_has_no_keys_but_its_own(guarded: Guarded) -> None:
    with guarded.client("worker") as worker, pytest.raises(NoPermissionError):
        worker.get("somebody-elses")


def _record() -> Record:
    return Record(namespace="betty", tag="one", phase=Phase.RUNNING, created_at=0.0, changed_at=0.0)


async def _requested(puter: PuterClient, *tags: str) -> list[View]:
    batch = await puter.submit([MachineRequest(tag, spec()) for tag in tags])
    return await puter.wait(batch_id=batch, tags=tags, wait=WaitFor.RUNNING, timeout_s=120)
