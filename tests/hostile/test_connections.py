"""Connections, which Redis counts for all users together: those that are idle end, and a worker stands both.

10,000 sockets that had not even signed in kept everybody out for the hour that an idle connection was left open.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from puter_client.store.pool import LivePool
from puter_client.store.redis_connection import connection_pool
from puter_worker.rates import Rates
from tests.ec2sim.client import ControlClient
from tests.hostile.world import SharedRedis, shared
from tests.integration.moto_server import point_at
from tests.integration.redis_servers import RedisServer, running_server, server_binaries
from tests.integration.sim_workshop import CALM, SPEED, SWIFT, SimWorkshop, eventually, sim_url
from tests.integration.workshop import PATIENCE_S

__all__ = ["shared", "sim_url"]

# Seconds: the shortest that Redis knows; deploy/redis.conf has 60.
IDLE_S = "1"
MOST = 40


@pytest.fixture(params=server_binaries())
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Each kind of server found here, with few connections, of which idle ones end soon."""
    with running_server(server_binaries()[request.param], timeout=IDLE_S, maxclients=str(MOST)) as one:
        yield one


@pytest.fixture
async def shop(
    server: RedisServer, sim_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[SimWorkshop]:
    """A client and the simulated EC2 at that server; workers are started by the test."""
    point_at(sim_url, monkeypatch, tmp_path)
    async with ControlClient(sim_url) as sim:
        await sim.reset(CALM)
        opened = SimWorkshop(server, sim_url, sim)
        opened.timings, opened.rates = SWIFT, Rates().faster(SPEED)
        yield opened
        await opened.aclose()


def socket_of(server: RedisServer) -> str:
    return server.url.removeprefix("unix://")


async def test_clients_and_workers_stand_that_idle_connections_end(shop: SimWorkshop) -> None:
    async with shop.working():
        await shop.request("first")
        with shop.server.client() as behind:
            before = {one["id"] for one in behind.client_list() if "P" not in one["flags"]}

            async def ended() -> bool:
                left = {one["id"] for one in behind.client_list()}
                return len(before & left) <= len(before) // 2

            await eventually("half of the connections that were used for the request have ended", ended)
        await shop.request("second")
        await shop.one_each("first", "second")


def test_sockets_that_never_sign_in_end(server: RedisServer) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.settimeout(30)
        silent.connect(socket_of(server))

        assert silent.recv(1) == b""  # closed by the server


@contextmanager
def all_connections(path: str) -> Iterator[None]:
    """Take every connection that is left, and at once each that ends, by sockets that never sign in."""
    stop = threading.Event()
    is_full = threading.Event()

    def attack() -> None:
        with ExitStack() as stack:
            while not stop.is_set():
                one = stack.enter_context(socket.socket(socket.AF_UNIX))
                if not is_accepted(one, path):
                    one.close()
                    is_full.set()
                    stop.wait(0.005)

    attacker = threading.Thread(target=attack)
    attacker.start()
    try:
        assert is_full.wait(30)
        yield
    finally:
        stop.set()
        attacker.join()


def is_accepted(one: socket.socket, path: str) -> bool:
    one.settimeout(10)
    try:
        one.connect(path)
        one.sendall(b"PING\r\n")
        return b"max number of clients" not in one.recv(100)
    except OSError:
        return False


TAGS = tuple(f"during-{number}" for number in range(30))


async def test_a_worker_that_runs_goes_on_while_somebody_takes_all_other_connections(shop: SimWorkshop) -> None:
    with shop.server.client() as behind:
        behind.config_set("timeout", 60)  # as deploy/redis.conf has it: what is in use stays open
    async with shop.working() as worker:
        await shop.request("before")
        await shop.records("before")  # waiting has ended the client's connections: this opens one
        with all_connections(socket_of(shop.server)):
            with pytest.raises(redis.ConnectionError), shop.server.client() as late:
                late.ping()
            await close_all_but(2, worker.store.db.redis.connection_pool)  # as idle ones are
            await shop.submit(*TAGS)

            async def launched() -> bool:
                records = await shop.records(*TAGS)
                return len(records) == len(TAGS) and all(record.instance_id for record in records)

            await eventually("the machines are launched", launched)
        await shop.one_each("before", *TAGS)


async def close_all_but(some: int, pool: LivePool) -> None:
    """Close connections of the pool, but for these."""
    for one in pool._available_connections[:-some]:
        await one.disconnect()


async def test_commands_wait_for_the_connections_that_live_if_no_other_is_accepted(server: RedisServer) -> None:
    async with Redis.from_pool(connection_pool(server.url, timeout_s=PATIENCE_S)) as client:
        await client.config_set("timeout", 60)  # as deploy/redis.conf has it: what is in use stays open
        with all_connections(socket_of(server)):
            answers = await asyncio.gather(*(client.echo(str(number)) for number in range(100)))

    assert answers == [str(number).encode() for number in range(100)]


async def test_nothing_is_waited_for_if_no_connection_lives(server: RedisServer) -> None:
    with server.client() as behind:
        behind.config_set("timeout", 60)  # what is open stays open
    async with Redis.from_pool(connection_pool(server.url, timeout_s=3_600.0)) as client:
        with all_connections(socket_of(server)), pytest.raises(RedisConnectionError):
            await client.ping()


def test_an_administrator_who_is_connected_ends_what_has_not_signed_in_and_makes_room(shared: SharedRedis) -> None:
    with shared.host.admin() as admin, shared.plain(shared.betty) as betty, ExitStack() as stack:
        betty.ping()
        admin.config_set("maxclients", MOST)
        silent = stack.enter_context(socket.socket(socket.AF_UNIX))
        silent.settimeout(30)
        silent.connect(str(shared.host.socket))
        with all_connections(str(shared.host.socket)):
            admin.config_set("maxclients", MOST + 100)
            assert admin.execute_command("CLIENT", "KILL", "USER", "default") >= 1
            assert silent.recv(1) == b""
            assert betty.ping()
