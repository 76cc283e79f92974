"""A test's way to the simulator's side door."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import msgspec

from tests.ec2sim.config import SimConfig
from tests.ec2sim.ledger import Entry
from tests.ec2sim.reports import Seen, Summary

Told = TypeVar("Told")


class ControlError(Exception):
    """The simulator refused what a test asked of it; the text is its answer."""


class ControlClient:
    """One simulator's side door."""

    def __init__(self, endpoint_url: str) -> None:
        self._base = f"{endpoint_url}/_sim"
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session:
            await self._session.close()

    async def summary(self) -> Summary:
        """Counts, states, buckets and defects."""
        return await self._ask("GET", "summary", Summary)

    async def config(self) -> SimConfig:
        """The behaviour in force."""
        return await self._ask("GET", "config", SimConfig)

    async def configure(self, **changes: Any) -> SimConfig:
        """Change some fields of the behaviour; new `faults` are counted from zero."""
        return await self._ask("PATCH", "config", SimConfig, changes)

    async def replace_config(self, config: SimConfig) -> SimConfig:
        """Another behaviour."""
        return await self._ask("PUT", "config", SimConfig, config)

    async def ledger(self, *, since: int = 0, action: str | None = None) -> list[Entry]:
        """Calls after a number, of one action or all."""
        query = f"ledger?since={since}" + (f"&action={action}" if action else "")
        return await self._ask("GET", query, list[Entry])

    async def instances(self, *, user_data: bool = False) -> list[Seen]:
        """All instances as they really are."""
        return await self._ask("GET", f"instances?user_data={int(user_data)}", list[Seen])

    async def shut_down(self, instance_id: str) -> Seen:
        """The instance shuts itself down."""
        return await self._ask("POST", f"shutdown/{instance_id}", Seen)

    async def end(self, instance_id: str, code: str, message: str) -> Seen:
        """AWS ends the instance for a reason."""
        return await self._ask("POST", f"end/{instance_id}", Seen, {"code": code, "message": message})

    async def write_console(self, instance_id: str, text: str | bytes) -> Seen:
        """The instance writes on its console."""
        raw = text.encode() if isinstance(text, str) else text
        return await self._ask("POST", f"console/{instance_id}", Seen, raw=raw)

    async def post_console(self, instance_id: str) -> Seen:
        """EC2 posts its console: from now on only what is posted so can be read without `Latest`."""
        return await self._ask("POST", f"post-console/{instance_id}", Seen)

    async def advance(self, seconds: float) -> float:
        """Moves the simulator's time forwards; answers what it is then."""
        return await self._ask("POST", "advance", float, {"seconds": seconds})

    async def reset(self, config: SimConfig | None = None) -> SimConfig:
        """Everything is forgotten but the behaviour, or that too."""
        return await self._ask("POST", "reset", SimConfig, {"config": config})

    async def _ask(
        self, method: str, path: str, kind: type[Told], body: object = None, *, raw: bytes | None = None
    ) -> Told:
        if self._session is None:
            raise ControlError("use the client inside `async with`")
        data = raw if raw is not None or body is None else msgspec.json.encode(body)
        async with self._session.request(method, f"{self._base}/{path}", data=data) as answer:
            got = await answer.read()
            if answer.status != 200:
                raise ControlError(f"{method} {path}: {answer.status} {got.decode()}")
            return msgspec.json.decode(got, type=kind)
