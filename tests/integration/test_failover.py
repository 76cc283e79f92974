"""A Redis with Sentinels: who is asked, what is used, and what goes on when another server becomes the primary."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from puter_client.client import MachineRequest, PuterClient
from puter_client.contract.errors import StoreUnavailable
from puter_client.contract.spec import Spec
from puter_client.store import names as public
from puter_client.store import sentinel as sentinel_module
from puter_client.store.redis_connection import connection_pool
from puter_client.store.redis_url import RedisUrl
from puter_client.store.sentinel import Primary
from puter_worker.clock import Clock
from puter_worker.memory import Remembered
from puter_worker.store import wakeups
from puter_worker.store.arq_adapter import arq_redis
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.timings import Timings
from tests.ec2sim.client import ControlClient
from tests.integration.moto_server import point_at
from tests.integration.redis_servers import RedisServer
from tests.integration.sentinels import SERVICE, Failover, Member, eventually, failing_over
from tests.integration.sim_workshop import CALM, SPEED, SWIFT, SimWorkshop, sim_url
from tests.integration.sim_workshop import eventually as until
from tests.integration.tls_proxy import Authority, open_port, server_context

__all__ = ["sim_url"]

TARGET = "123456789012:us-east-1:"


@pytest.fixture(scope="module")
def calm() -> Iterator[Failover]:
    """One that no test harms."""
    with failing_over() as group:
        yield group


@pytest.fixture
def group() -> Iterator[Failover]:
    """One that a test may harm; writes need no replica."""
    with failing_over(min_replicas=0) as started:
        yield started


@asynccontextmanager
async def client_of(url: str, told: list[str]) -> AsyncIterator[PuterClient]:
    async with PuterClient.connect(url, namespace="betty", user="betty", tell=told.append) as client:
        yield client


@asynccontextmanager
async def store_of(group: Failover) -> AsyncIterator[Store]:
    """A worker's store, as its user."""
    redis = arq_redis(connection_pool(group.url("worker"), max_connections=16))
    store = Store(redis, clock=Clock(), timings=Timings())
    await store.db.sync_clock()
    try:
        yield store
    finally:
        await redis.aclose()
        await redis.connection_pool.disconnect()


async def killed(group: Failover, number: signal.Signals = signal.SIGKILL) -> Member:
    """The new primary, after the first one was killed, or suspended."""
    process = group.servers[0].process
    assert process
    process.send_signal(number)
    if number is signal.SIGKILL:
        process.wait()
    return await asyncio.to_thread(group.failed_over, group.servers[0])


@contextmanager
def suspended(*members: Member) -> Iterator[None]:
    """These processes do nothing while inside."""
    for one in members:
        assert one.process
        one.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for one in members:
            assert one.process
            one.process.send_signal(signal.SIGCONT)


# -- who is asked -----------------------------------------------------------------------------------------------------


async def why_not(url: str) -> str:
    with pytest.raises(StoreUnavailable) as caught:
        async with client_of(url, []) as client:
            await client.untaken()
    told = str(caught.value)
    assert told.startswith("Redis at redis+sentinel://127.0.0.1:")
    of = RedisUrl.parse(url)
    assert [secret for secret in (of.password, of.sentinel_password) if secret and secret in told] == []
    return told


async def test_sentinels_that_require_a_password_are_named(calm: Failover) -> None:
    told = await why_not(calm.url("betty").partition("?")[0])
    assert "has Sentinels that refuse their user or password: set sentinel_user" in told


async def test_a_service_that_they_do_not_know_is_named(calm: Failover) -> None:
    assert "is not known to its Sentinels" in await why_not(calm.url("betty").replace(f"/{SERVICE}/", "/another/"))


async def test_a_redis_in_place_of_sentinels_is_named(calm: Failover) -> None:
    told = await why_not(calm.url("betty", calm.servers[0].port))
    assert told.endswith("check that its ports are those of Sentinels")


async def test_a_user_of_sentinels_who_may_not_ask_is_named(calm: Failover) -> None:
    url = f"redis+sentinel://127.0.0.1:{calm.servers[0].port}/{SERVICE}?sentinel_user=worker"
    told = await why_not(f"{url}&sentinel_password={calm.password('worker')}")
    assert "has Sentinels that refuse to name it: check that these are the ports of Sentinels" in told


async def test_sentinels_that_do_not_answer_are_named() -> None:
    assert "none of its Sentinels answers" in await why_not(f"redis+sentinel://127.0.0.1:1,127.0.0.1:2/{SERVICE}")


async def test_a_password_of_redis_itself_that_is_wrong_is_named(calm: Failover) -> None:
    told = await why_not(calm.url("betty").replace(calm.password("betty"), "wrong"))
    assert "refuses the user or the password" in told


async def test_one_sentinel_of_three_is_enough_and_none_that_hangs_is_waited_for(calm: Failover) -> None:
    with suspended(calm.sentinels[0]):
        async with client_of(calm.url("betty"), []) as client:
            assert await client.untaken() == 0
    async with client_of(calm.url("betty").replace(f":{calm.sentinels[0].port}", ":1"), []) as client:
        assert await client.untaken() == 0


async def test_a_replica_is_never_read(calm: Failover, monkeypatch: pytest.MonkeyPatch) -> None:
    async def names_a_replica(_: Primary, __: str) -> tuple[str, int]:
        return "127.0.0.1", calm.servers[1].port

    monkeypatch.setattr(Primary, "discover_master", names_a_replica)

    assert "is failing over: the server that its Sentinels name is still a replica" in await why_not(calm.url("betty"))


async def test_tls_leads_to_sentinels_and_to_the_primary(
    calm: Failover, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tls").mkdir()
    authority = Authority(tmp_path / "tls")
    context = server_context(authority.file("127.0.0.1"))
    async with (
        open_port(calm.sentinels[0].socket, context) as sentinel,
        open_port(calm.servers[0].socket, context) as port,
    ):
        # The Sentinel itself knows of no proxy.
        monkeypatch.setattr(sentinel_module, "primary_of", lambda states: ("127.0.0.1", port) if states else None)
        url = calm.url("betty", sentinel).replace("redis+", "rediss+", 1)
        async with client_of(f"{url}&ssl_ca_certs={authority.certificate}", []) as client:
            assert await client.untaken() == 0

        with pytest.raises(StoreUnavailable, match="has a certificate that this computer does not trust"):
            async with client_of(url, []) as client:
                await client.untaken()


# -- what an append rests on ------------------------------------------------------------------------------------------


async def test_what_a_replica_has_confirmed_needs_no_word(calm: Failover) -> None:
    told: list[str] = []
    async with client_of(calm.url("betty"), told) as client:
        await client.submit([MachineRequest(f"n-{n}", Spec()) for n in range(1_500)])

    assert told == []
    with calm.servers[0].client() as behind:
        behind.delete(public.inbox("betty:betty"))


async def test_what_none_has_confirmed_is_told_in_one_line(group: Failover) -> None:
    told: list[str] = []
    with suspended(*group.servers[1:]):
        async with client_of(group.url("betty"), told) as client:
            await client.submit([MachineRequest(f"n-{n}", Spec()) for n in range(3_000)])

    assert [line.partition(":")[0] for line in told] == ["warning"]
    assert "no replica has confirmed them" in told[0]
    with group.primary.client() as behind:
        assert behind.llen(public.inbox("betty:betty")) == 3_000


async def test_a_user_who_may_not_ask_is_told_so_and_the_requests_are_there(calm: Failover) -> None:
    told: list[str] = []
    with calm.servers[0].client() as behind:
        behind.execute_command("ACL SETUSER betty -wait")
        try:
            async with client_of(calm.url("betty"), told) as client:
                await client.submit([MachineRequest("one", Spec())])
                assert await client.untaken() == 1
        finally:
            behind.execute_command("ACL SETUSER betty +wait")
            behind.delete(public.inbox("betty:betty"))

    (line,) = told
    assert line.endswith("add +wait to its rules")


@pytest.mark.parametrize("command", ["RPUSH", "PUBLISH"])
async def test_a_refusal_is_an_error_and_nothing_is_appended(calm: Failover, command: str) -> None:
    with calm.servers[0].client() as behind:
        if command == "RPUSH":
            behind.set(public.inbox("betty:betty"), "no list")
        else:
            behind.execute_command("ACL SETUSER betty clearselectors")
        try:
            async with client_of(calm.url("betty"), []) as client:
                with pytest.raises(StoreUnavailable, match=r"refused a command|does not permit"):
                    await client.submit([MachineRequest("one", Spec())])
        finally:
            behind.delete(public.inbox("betty:betty"), public.READY)
            behind.execute_command("ACL LOAD")


# -- what a launch rests on -------------------------------------------------------------------------------------------


async def durably(store: Store) -> tuple[list[int], str | None]:
    txn = Txn()
    txn.do("SET", "puter:_spec:betty/one", "x")
    return await store.commit_durably(txn)


async def test_a_launch_rests_on_a_replica_if_there_is_one(group: Failover) -> None:
    async with store_of(group) as store:
        assert await durably(store) == ([], None)
        with suspended(*group.servers[1:]):
            broken, why = await durably(store)
        assert (broken, why) == ([], "Redis did not confirm within 2 s that the launch is on a replica")
        for one in group.servers[1:]:
            one.kill()
        eventually("no replica is connected", lambda: group.servers[0].says("replication")["connected_slaves"] == 0)
        assert await durably(store) == ([], None)


# -- another primary --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "suspended"])
async def test_a_client_goes_on_and_hears_of_changes(group: Failover, number: signal.Signals) -> None:
    async with client_of(group.url("betty"), []) as client, client._store.changes("betty") as changes:
        await client.submit([MachineRequest("one", Spec())])
        now = await killed(group, number)
        await client.untaken()  # a subscription to a server that hangs hears nothing
        assert await changes.wait(30.0) is None  # anything may have changed

        with now.client() as behind:
            behind.publish(public.channel("betty"), "one")
        assert await changes.wait(30.0) == {"one"}
        await client.submit([MachineRequest("two", Spec())])
        assert await client.untaken() == 2


async def test_a_worker_goes_on_with_its_scripts_and_its_subscription(group: Failover) -> None:
    async with store_of(group) as store:
        topics = store.wakeups.topics()
        assert await anext(topics) == wakeups.EVERYTHING
        assert await store.leases.acquire(TARGET, "me") == 0
        await killed(group)
        assert await anext(topics) == wakeups.EVERYTHING

        assert await store.leases.acquire(TARGET, "me") == 0  # its script is loaded there
        assert await durably(store) == ([], None)
        await cast("Any", topics).aclose()


async def test_a_primary_that_is_told_to_follow_another_is_left(group: Failover) -> None:
    before = group.servers[0]
    async with store_of(group) as store, client_of(group.url("betty"), []) as client:
        for number in range(8):  # several connections
            await asyncio.gather(*(durably(store) for _ in range(number)))
        await client.submit([MachineRequest("one", Spec())])
        await asyncio.to_thread(group.hand_over)
        assert before.follows()

        for _ in range(8):
            await durably(store)
        await client.submit([MachineRequest("two", Spec())])
        assert await client.untaken() == 2


async def test_an_old_primary_that_comes_back_is_not_used_though_it_says_it_is_one(group: Failover) -> None:
    async with client_of(group.url("betty"), []) as client, store_of(group) as store:
        await client.submit([MachineRequest("one", Spec())])
        await killed(group)
        await client.submit([MachineRequest("two", Spec())])
        group.servers[0].start()  # the Sentinels take 8 s to tell it

        assert group.servers[0].says("replication")["role"] == "master"
        async with client_of(group.url("betty"), []) as another:
            assert [await client.untaken(), await another.untaken()] == [2, 2]
        assert await durably(store) == ([], None)


# -- a replica that lacks the last writes becomes the primary ---------------------------------------------------------


async def test_a_worker_notices_a_primary_that_is_behind(group: Failover) -> None:
    async with store_of(group) as store:
        epoch = await store.epochs.read()
        await durably(store)  # a replica has it
        group.cut_replicas_off()
        txn = Txn()
        store.epochs.put_launch(txn, epoch)
        assert (await store.commit_durably(txn)) == ([], None)  # there is no replica, and it is on disk
        known = Remembered(await store.epochs.read())
        await killed(group)

        assert known.contradicts(await store.epochs.read())


class Fleeting(RedisServer):
    """The present primary, as workshops use a server."""

    def __init__(self, group: Failover) -> None:
        self._group = group
        self.url = group.url("betty")

    def client(self) -> redis.Redis:
        return self._group.primary.client()


async def test_what_was_launched_before_it_is_found_and_not_launched_again(
    group: Failover, sim_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    point_at(sim_url, monkeypatch, tmp_path)
    tags = [f"n-{n}" for n in range(12)]
    async with ControlClient(sim_url) as sim:
        await sim.reset(CALM)
        shop = SimWorkshop(Fleeting(group), sim_url, sim)
        shop.timings, shop.rates = SWIFT, shop.rates.faster(SPEED)
        async with shop.working(memory_folder=tmp_path / "memory", redis_url=group.url("worker")):
            await shop.submit("before")
            await until("it runs", lambda: runs(shop, "before"))
            group.cut_replicas_off()
            await shop.submit(*tags)
            await until("all run", lambda: runs(shop, *tags))
            await killed(group)

            await shop.submit("before", *tags)  # as somebody does who has lost them
            await until("all are known", lambda: runs(shop, "before", *tags))

        await shop.one_each("before", *tags)
        await shop.aclose()


async def runs(shop: SimWorkshop, *tags: str) -> bool:
    try:
        records = await shop.records(*tags)
    except StoreUnavailable:
        return False
    return [record.phase for record in records] == ["running"] * len(tags)
