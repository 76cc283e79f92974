"""docs/shared-host.md, "Failing over", is followed: its configuration, and its commands, on ports of 127.0.0.1.

`tests/integration/sentinels.py` runs the first block, and puts its files in place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from puter_client.client import MachineRequest, PuterClient
from puter_client.contract.spec import Spec
from puter_client.store.redis_url import RedisUrl
from tests.integration.redis_servers import server_binaries
from tests.integration.sentinels import BLOCKS, ON_PAGE, SECTION, Failover, eventually, failing_over, replaced
from tests.integration.shared_host import ROOT

pytestmark = pytest.mark.skipif(
    shutil.which("redis-cli") is None and os.environ.get("CI") != "true", reason="redis-cli is not on this machine"
)
_SET_UP, CHECK, CHANGE = BLOCKS
HOSTS = ON_PAGE.split(",")


@pytest.fixture(params=server_binaries())
def group(request: pytest.FixtureRequest) -> Iterator[Failover]:
    """What the first block makes, with each kind of server found here."""
    with failing_over(kind=request.param) as started:
        yield started


class FirstHost:
    """The host on which users are made: a shell for which the page's hosts are ports and folders of this computer."""

    def __init__(self, group: Failover, folder: Path) -> None:
        self._group = group
        first = group.servers[0]
        (first.folder / "admin.env").write_text(group.made.admin.replace(":1/", f":{first.port}/"))
        servers = list(zip(HOSTS, group.servers, strict=True))
        self._script(
            folder / "redis-cli",
            *(f'"-h {host}") port={one.port};;' for host, one in servers),
            f'"-p 26379") port={group.sentinels[0].port};;',
            then=f'shift 2; exec {shutil.which("redis-cli")} -p "$port" "$@"',
            of='"$1 $2"',
        )
        self._script(
            folder / "scp",
            *(f'"root@{host}:{first.folder}/acl/") to={one.folder}/acl/;;' for host, one in servers),
            then='exec cp "$1" "$2" "$to"',
            of='"$3"',
        )
        address = RedisUrl.parse(group.url("betty"))
        self._environ = {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PUTER_HOST_FOLDER": str(first.folder),
            "PUTER_REDIS_ADDRESS": group.url("betty").replace(f"betty:{address.password}@", ""),
            "SENTINELS": group.made.password,
        }

    @staticmethod
    def _script(path: Path, *cases: str, then: str, of: str) -> None:
        path.write_text("\n".join(["#!/bin/sh", f"case {of} in", *cases, "*) exit 1;;", "esac", then, ""]))
        path.chmod(0o700)

    def run(self, block: str) -> str:
        """Run commands as a person would type them, but that the first that fails ends them; what they wrote."""
        return self._ran(["bash", "-euo", "pipefail", "-c", block])

    def add(self, name: str) -> str:
        """`puter admin user add NAME`; the URL that it shows."""
        told = self._ran([sys.executable, "-m", "puter_client.cli", "admin", "user", "add", name])
        return told.strip().partition("=")[2]

    def _ran(self, command: list[str]) -> str:
        told = subprocess.run(command, env=self._environ, capture_output=True, text=True, check=False, timeout=120)
        assert told.returncode == 0, told.stdout + told.stderr
        return told.stdout


@pytest.fixture
def host(group: Failover, tmp_path: Path) -> FirstHost:
    return FirstHost(group, tmp_path)


async def may_submit(url: str, name: str) -> bool:
    """Whether a request of this user waits for a worker after it was submitted."""
    async with PuterClient.connect(url, namespace=name, tell=lambda _: None) as client:
        await client.submit([MachineRequest("one", Spec())])
        return bool(await client.untaken())


async def test_the_page_leads_to_a_redis_that_fails_over_with_its_users(group: Failover, host: FirstHost) -> None:
    first = group.servers[0]
    quorum, *slaves, began, _where, _port = host.run(CHECK).splitlines()

    assert quorum.startswith("OK 3 usable Sentinels")
    assert slaves == ["num-slaves", "2"]
    assert began == "OK"
    second = group.failed_over(first)
    group.is_whole()

    carol = host.add("carol")  # the server of this host is a replica now
    loaded = host.run(replaced(CHANGE, {"/etc/puter/": f"{first.folder}/"}))

    assert loaded.split() == ["OK", "OK"]
    eventually("a replica follows", lambda: group.following(second) > 0)
    assert await may_submit(carol, "carol")
    second.kill()
    third = group.failed_over(second)
    eventually("a replica follows", lambda: group.following(third) > 0)
    assert await may_submit(carol, "carol")
    assert await may_submit(group.url("betty"), "betty")


def test_every_host_of_the_page_is_one_of_three() -> None:
    """The hosts that are mapped to this computer are those that the page has."""
    assert {word for host in HOSTS for word in [host] if word in SECTION} == set(HOSTS)
    assert "for host in {};".format(" ".join(HOSTS[1:])) in CHANGE
