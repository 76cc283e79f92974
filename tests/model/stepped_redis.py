"""A Redis whose commands are parked before a real server executes them.

The stores' own scripts run, on a real Valkey; only the way there is the model's. Reads are answered at once: what
they show may be old by the time it is acted upon, for the write that follows is parked.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from types import TracebackType
from typing import Any, Self

import redis

from tests.model.steps import Steps

_READS = frozenset(
    {"get", "hget", "hgetall", "hmget", "lrange", "mget", "scard", "smembers", "zcard", "zrange", "zrangebyscore"}
)
_READING = files("puter_worker.store").joinpath("read.lua").read_text()


def _gone(_doubtful: bool) -> Exception:
    return redis.ConnectionError("the connection broke")


class SteppedRedis:
    """The part of `redis.asyncio.Redis` that the stores use."""

    def __init__(self, steps: Steps, server: redis.Redis) -> None:
        self.steps = steps
        self.server: Any = server

    def register_script(self, text: str) -> Any:
        script = self.server.register_script(text)

        async def run(keys: Sequence[Any] = (), args: Sequence[Any] = (), client: Any = None) -> Any:
            assert client is None, "scripts within pipelines are not modelled"
            if text == _READING:
                return script(keys=keys, args=args)
            return await self.steps.ask("redis", "script", lambda: script(keys=keys, args=args), _gone)

        return run

    def pipeline(self, *, transaction: bool) -> _Pipeline:
        return _Pipeline(self, self.server.pipeline(transaction=transaction))

    def __getattr__(self, name: str) -> Any:
        command = getattr(self.server, name)

        async def ask(*args: Any, **kwargs: Any) -> Any:
            if name in _READS:
                return command(*args, **kwargs)
            return await self.steps.ask("redis", name, lambda: command(*args, **kwargs), _gone)

        return ask


class _Pipeline:
    """Commands that are sent together."""

    def __init__(self, of: SteppedRedis, pipe: Any) -> None:
        self._of = of
        self._pipe = pipe
        self._reads = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.reset()

    async def execute(self) -> Any:
        if self._reads:
            return self._pipe.execute()
        return await self._of.steps.ask("redis", "pipeline", self._pipe.execute, _gone)

    def __getattr__(self, name: str) -> Any:
        self._reads = self._reads and name in _READS
        return getattr(self._pipe, name)
