"""The users of replicas and Sentinels may do all that a failover takes, on each kind of server."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import redis

from tests.integration.redis_servers import server_binaries
from tests.integration.sentinels import Failover, eventually, failing_over

# As a Valkey may have it: a full copy takes a connection of its own, which is asked for in another way.
SETTINGS = {"valkey": "repl-diskless-sync yes\ndual-channel-replication-enabled yes\n"}
PLANNED = {"valkey": ["", " COORDINATED"]}


@pytest.fixture(params=server_binaries())
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of server found here."""
    return str(request.param)


@pytest.fixture
def group(kind: str) -> Iterator[Failover]:
    """One with the users and the configuration of docs/shared-host.md."""
    with failing_over(kind=kind, settings=SETTINGS.get(kind, "")) as started:
        yield started


def denied(group: Failover) -> list[tuple[str, str]]:
    """What Redis and Sentinels have refused to whom."""
    found = []
    for one in (*group.servers, *group.sentinels):
        with one.client() as client:
            found += [(entry["username"], entry["object"]) for entry in client.acl_log()]
    return found


def test_nothing_of_a_failover_is_denied(group: Failover, kind: str) -> None:
    first = group.servers[0]
    first.kill()
    group.failed_over(first)
    first.start()
    eventually("the old primary follows", first.follows)
    group.is_whole()

    for options in PLANNED.get(kind, [""]):
        group.hand_over(options)

    assert denied(group) == []


def test_who_is_the_primary_is_known_after_a_restart_of_everything(group: Failover) -> None:
    first = group.servers[0]
    group.hand_over()
    now = group.primary
    for one in (*group.sentinels, *group.servers):
        one.kill()

    group.start()

    assert group.primary is now
    assert first.follows()


def test_a_script_that_does_not_end_is_killed(group: Failover) -> None:
    killed = threading.Event()
    group.watch()

    def run_without_end() -> None:
        with group.servers[0].client() as client:
            client.config_set("busy-reply-threshold", 100)
            with pytest.raises(redis.RedisError, match="Script killed by user"):
                client.eval("while true do end", 0)
            killed.set()

    thread = threading.Thread(target=run_without_end, daemon=True)
    thread.start()

    assert killed.wait(60)
