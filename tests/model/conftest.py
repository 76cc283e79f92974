"""Fixtures: a Valkey that keeps nothing on disk, and a world on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
import structlog

from tests.integration.redis_servers import running_server, server_binaries
from tests.model.world import World


@pytest.fixture(scope="package")
def server() -> Iterator[redis.Redis]:
    """The Valkey of the local engine; its thousands of log lines are not shown."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    with running_server(server_binaries()["valkey"]) as running, running.client() as client:
        client.config_set("appendonly", "no")
        yield client
    structlog.reset_defaults()


@pytest.fixture
def world(server: redis.Redis) -> Iterator[World]:
    """A world in which nothing has happened yet."""
    world = World(server)
    yield world
    world.close()
