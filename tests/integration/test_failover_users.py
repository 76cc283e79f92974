"""The users of replicas and Sentinels may do all that a failover takes, on each kind of server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
import redis

from tests.integration.redis_servers import server_binaries
from tests.integration.sentinels import SERVICE, Failover, Member, eventually, failing_over

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


def is_replica(one: Member) -> bool:
    told = one.says("replication")
    return (told["role"], told.get("master_link_status")) == ("slave", "up")


def handed_over(group: Failover, options: str) -> None:
    """Another server has become the primary, because somebody asked for it."""
    before, asked = group.primary, group.sentinels[0]

    def is_done() -> bool:
        if group.named(asked) != before.port:
            return True
        with asked.client() as sentinel, suppress(redis.ResponseError):
            # Refused before it has heard of what the last failover changed, and while one is in progress. One that it
            # has given up, as it does without telling anybody, is asked for again.
            sentinel.execute_command(f"SENTINEL FAILOVER {SERVICE}{options}")
        return False

    eventually("another is the primary", is_done)
    group.failed_over(before)
    eventually("the old primary follows", lambda: is_replica(before))
    group.is_whole()


def test_nothing_of_a_failover_is_denied(group: Failover, kind: str) -> None:
    first = group.servers[0]
    first.kill()
    group.failed_over(first)
    first.start()
    eventually("the old primary follows", lambda: is_replica(first))
    group.is_whole()

    for options in PLANNED.get(kind, [""]):
        handed_over(group, options)

    assert denied(group) == []


def test_who_is_the_primary_is_known_after_a_restart_of_everything(group: Failover) -> None:
    first = group.servers[0]
    handed_over(group, "")
    now = group.primary
    for one in (*group.sentinels, *group.servers):
        one.kill()

    group.start()

    assert group.primary is now
    assert is_replica(first)


def test_a_script_that_does_not_end_is_killed(group: Failover) -> None:
    killed = threading.Event()

    def run_without_end() -> None:
        with group.servers[0].client() as client:
            client.config_set("busy-reply-threshold", 100)
            with pytest.raises(redis.RedisError, match="Script killed by user"):
                client.eval("while true do end", 0)
            killed.set()

    thread = threading.Thread(target=run_without_end, daemon=True)
    thread.start()

    assert killed.wait(60)
