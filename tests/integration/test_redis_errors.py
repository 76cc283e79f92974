"""A Redis that cannot be used: what is wrong is named in one line, to a client and to a worker that starts."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from puter_client.client import MachineRequest, PuterClient
from puter_client.contract.errors import InvalidInput, StoreUnavailable
from puter_client.contract.spec import Spec
from puter_client.store.redis_connection import check_url
from tests.integration.redis_servers import RedisServer, running_server, server_binaries
from tests.integration.tls_proxy import Authority, open_port, server_context

CLUSTER = "is in cluster mode, which Puter cannot use: name a Redis with cluster-enabled no"
UNTRUSTED = "has a certificate that this computer does not trust: add ?ssl_ca_certs=FILE to "
ADDRESS = "127.0.0.1"


def patient(url: str) -> str:
    """The same, with limits that no busy machine exceeds; one that has limits keeps them."""
    if "timeout=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}socket_timeout=120&socket_connect_timeout=120"


async def told_a_client(url: str) -> str:
    """What a client is told that submits something."""
    async with PuterClient.connect(patient(url), namespace="betty", user="betty") as client:
        with pytest.raises(StoreUnavailable) as caught:
            await client.submit([MachineRequest("one", Spec())])
    return str(caught.value)


async def run_worker(url: str, home: Path) -> tuple[int | None, str]:
    """Exit code and standard error of a worker that ends when nothing is left to do."""
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "puter_worker", "--burst"),
        env={"PATH": os.environ["PATH"], "PUTER_REDIS_URL": patient(url), "PUTER_HOME": str(home), "HOME": str(home)},
        cwd=Path(__file__).parents[2],
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(worker.communicate(), 60)
    return worker.returncode, err.decode()


async def assert_told(url: str, shown: str, why: str, home: Path) -> None:
    """Both are told the same, in one line, and the worker ends with exit code 3."""
    told = await told_a_client(url)
    assert told.startswith(f"Redis at {shown} {why}")
    code, err = await run_worker(url, home)
    assert err.startswith(f"puter worker: Redis at {shown} {why}")
    assert (code, err.count("\n")) == (3, 1)
    assert "hunter2" not in told + err


# -- cluster mode and databases ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=server_binaries())
def cluster(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server in cluster mode, which needs two ports that are free."""
    with socket.socket() as first, socket.socket() as second:
        first.bind((ADDRESS, 0))
        second.bind((ADDRESS, 0))
        port, bus = (str(probe.getsockname()[1]) for probe in (first, second))
    settings = {"port": port, "cluster_port": bus, "bind": ADDRESS, "cluster_enabled": "yes"}
    with running_server(server_binaries()[request.param], **settings) as server:
        yield server


async def test_a_cluster_without_slots_is_named(cluster: RedisServer, tmp_path: Path) -> None:
    await assert_told(cluster.url, cluster.url, CLUSTER, tmp_path)


async def test_a_cluster_of_one_that_serves_every_slot_is_named(cluster: RedisServer, tmp_path: Path) -> None:
    with cluster.client() as admin:
        admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        async with asyncio.timeout(120):
            while b"cluster_state:ok" not in admin.execute_command("CLUSTER", "INFO"):
                await asyncio.sleep(0.05)  # until it serves them; there is no event to wait for

        await assert_told(cluster.url, cluster.url, CLUSTER, tmp_path)


async def test_another_database_of_a_cluster_is_named(cluster: RedisServer, tmp_path: Path) -> None:
    url = f"{cluster.url}?db=1"

    told = await told_a_client(url)

    # Since Valkey 9, a cluster may have several databases.
    assert CLUSTER in told or "has no database of that number" in told
    assert (await run_worker(url, tmp_path))[1] == f"puter worker: {told}\n"


async def test_a_database_that_is_not_there_is_named(any_redis: RedisServer, tmp_path: Path) -> None:
    url = f"{any_redis.url}?db=99"

    await assert_told(
        url, url, "has no database of that number: name another, or raise its setting databases", tmp_path
    )


# -- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Signs the certificates of a test."""
    (tmp_path / "tls").mkdir()
    return Authority(tmp_path / "tls")


@pytest.fixture
async def tls(valkey: RedisServer, authority: Authority) -> AsyncIterator[int]:
    """A TLS port of a Redis, with a certificate for its address."""
    async with open_port(path_of(valkey), server_context(authority.file(ADDRESS))) as port:
        yield port


def path_of(server: RedisServer) -> str:
    """The path of a server's socket."""
    return server.url.removeprefix("unix://")


def shown(scheme: str, port: int) -> str:
    """What is shown of an address."""
    return f"{scheme}://{ADDRESS}:{port}/0"


async def test_a_tls_port_is_used_by_both_sides(tls: int, authority: Authority, tmp_path: Path) -> None:
    url = f"rediss://{ADDRESS}:{tls}?ssl_ca_certs={authority.certificate}"

    async with PuterClient.connect(patient(url), namespace="betty", user="betty") as client:
        assert await client.recent() == []
    assert (await run_worker(url, tmp_path))[0] == 0


async def test_an_authority_that_nobody_knows_is_named(tls: int, tmp_path: Path) -> None:
    await assert_told(f"rediss://betty:hunter2@{ADDRESS}:{tls}", shown("rediss", tls), UNTRUSTED, tmp_path)


async def test_a_certificate_for_another_host_is_named(
    valkey: RedisServer, authority: Authority, tmp_path: Path
) -> None:
    async with open_port(path_of(valkey), server_context(authority.file("192.0.2.7"))) as port:
        url = f"rediss://{ADDRESS}:{port}?ssl_ca_certs={authority.certificate}"

        await assert_told(url, shown("rediss", port), "has a certificate for another host", tmp_path)

        async with PuterClient.connect(f"{url}&ssl_check_hostname=false", namespace="a", user="a") as client:
            assert await client.recent() == []


async def test_a_certificate_that_has_ended_is_named(valkey: RedisServer, authority: Authority) -> None:
    async with open_port(path_of(valkey), server_context(authority.file(ADDRESS, ended=True))) as port:
        told = await told_a_client(f"rediss://{ADDRESS}:{port}?ssl_ca_certs={authority.certificate}")

    assert "has a certificate that is not valid now" in told


async def test_a_server_that_asks_for_a_certificate_is_named(valkey: RedisServer, authority: Authority) -> None:
    context = server_context(authority.file(ADDRESS), clients_of=authority.certificate)
    async with open_port(path_of(valkey), context) as port:
        url = f"rediss://{ADDRESS}:{port}?ssl_ca_certs={authority.certificate}"

        assert "?ssl_certfile=FILE&ssl_keyfile=FILE to " in await told_a_client(url)

        own = authority.file("192.0.2.8")
        async with PuterClient.connect(
            f"{url}&ssl_certfile={own}&ssl_keyfile={own}", namespace="a", user="a"
        ) as client:
            assert await client.recent() == []


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(authority: Authority) -> None:
    locked = authority.file(ADDRESS, passphrase="hunter2")

    with pytest.raises(InvalidInput, match="or the key has a passphrase"):
        check_url(f"rediss://r.example?ssl_certfile={locked}&ssl_keyfile={locked}")


async def test_a_plain_url_for_a_tls_port_is_named(tls: int, tmp_path: Path) -> None:
    await assert_told(
        f"redis://betty:hunter2@{ADDRESS}:{tls}",
        shown("redis", tls),
        "closed the connection without an answer: see its log; for a TLS port, write rediss://",
        tmp_path,
    )


async def test_a_tls_url_for_a_plain_port_is_named(valkey: RedisServer, tmp_path: Path) -> None:
    """Redis waits for the end of a line, which TLS does not send."""
    async with open_port(path_of(valkey)) as port:
        url = f"rediss://betty:hunter2@{ADDRESS}:{port}?socket_connect_timeout=3"

        told = await told_a_client(url)

        assert told.startswith(f"Redis at {shown('rediss', port)} does not answer in time")
        assert told.endswith("for a plain port, write redis://")
        assert (await run_worker(url, tmp_path))[1] == f"puter worker: {told}\n"
