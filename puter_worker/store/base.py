"""What all parts of the workers' store rest on: the clock, guarded transactions, durability, decoding."""

from __future__ import annotations

import secrets
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import msgspec
import structlog
from redis.exceptions import RedisError, ResponseError

from puter_worker.store.scripts import Scripts
from puter_worker.store.txn import Txn

if TYPE_CHECKING:
    from redis.asyncio import Redis

# Redis serves nobody else while a transaction runs.
WRITE_AT_ONCE = 50
# The clock is known to half of what the answer took.
SURE_WITHIN_S = 1.0
KEEP_S = 31 * 86_400  # records outlive their end by 30 days
NEEDS_NOTHING = "nothing"  # every write is on disk before it is answered

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
encode = msgspec.json.Encoder().encode
_log = structlog.get_logger("puter.store")


@dataclass(frozen=True, slots=True)
class Stored(Generic[T_co]):
    """Something read, or found missing, with the revision on which a write of it must rest.

    Attributes:
        value: None if there was nothing that decodes.
        rev: the raw revision; None if there was nothing.
    """

    value: T_co | None
    rev: bytes | None

    @property
    def kept(self) -> Kept[T_co] | None:
        """The same, if there was something."""
        return None if self.value is None else Kept(self.value, self.rev)


@dataclass(frozen=True, slots=True)
class Kept(Generic[T_co]):
    """Something that was there, with the revision on which a write of it must rest."""

    value: T_co
    rev: bytes | None


def next_rev(rev: bytes | None) -> int:
    """The revision that a write gives; what is written anew begins anywhere.

    Who read it before Redis was emptied must not take what was made since for what it knows.
    """
    return int(rev) + 1 if rev is not None else 1 + secrets.randbelow(1 << 40)


class Base:
    """The connection and what every part does with it.

    Attributes:
        refusals: what a command raises that Redis understands and refuses.
        errors: what any method raises while Redis does not answer; what was to be written may be.
    """

    refusals: ClassVar[tuple[type[Exception], ...]] = (ResponseError,)
    errors: ClassVar[tuple[type[Exception], ...]] = (RedisError, OSError)

    def __init__(self, redis: Redis) -> None:
        self.redis: Any = redis
        self.scripts = Scripts(redis)
        self._clock_offset_s = 0.0
        self._durability: str | None = None

    async def set_clock(self) -> None:
        """Learn how far this host's clock is from Redis TIME; to be called now and then."""
        before = time.time()
        seconds, micros = await self.redis.time()
        after = time.time()
        if after - before < SURE_WITHIN_S or not self._clock_offset_s:
            self._clock_offset_s = seconds + micros / 1e6 - (before + after) / 2

    def now(self) -> float:
        """Redis TIME to within milliseconds, without asking; seconds since 1970."""
        return time.time() + self._clock_offset_s

    async def commit(self, txn: Txn) -> list[int]:
        """Carry a transaction out; the numbers of the guards that did not hold (then nothing was written)."""
        broken = await self.scripts.txn(args=txn.args())
        return [int(number) - 1 for number in broken]

    async def commit_each(self, items: Sequence[T], put: Callable[[Txn, T], None]) -> list[T]:
        """Write many things in few transactions, each thing resting on guards of its own.

        `put` adds one to a transaction. What has moved on since it was read is left as it is; returns the others.
        """
        written: list[T] = []
        for start in range(0, len(items), WRITE_AT_ONCE):
            left = list(items[start : start + WRITE_AT_ONCE])
            while left:
                txn, ends = Txn(), []
                for item in left:
                    put(txn, item)
                    ends.append(txn.guards)
                broken = await self.commit(txn)
                moved_on = {bisect_right(ends, guard) for guard in broken}
                left = [item for number, item in enumerate(left) if number not in moved_on]
                if not broken:
                    written += left
                    break
        return written

    async def commit_durably(self, txn: Txn) -> tuple[list[int], str | None]:
        """Carry a transaction out and wait until it will survive a crash of Redis.

        Returns the broken guards, and why the write is not durable (None: it is).
        """
        durability = self._durability or await self._how_to_be_durable()
        if durability.startswith("!"):
            return await self.commit(txn), durability[1:]
        self._durability = durability
        command = durability.split()
        if durability == NEEDS_NOTHING:
            return await self.commit(txn), None
        # WAIT and WAITAOF speak of the writes of their own connection: one pipeline is one connection.
        async with self.redis.pipeline(transaction=False) as pipe:
            await self.scripts.txn(args=txn.args(), client=pipe)
            pipe.execute_command(*command)
            broken, reached = await pipe.execute(raise_on_error=False)
        for answer in (broken, reached):
            if isinstance(answer, Exception):
                self._durability = None
                raise answer
        confirmed = reached[0] if isinstance(reached, list) else reached
        why = None if confirmed >= 1 else "Redis did not confirm within 2 s that the launch is on disk"
        return [int(number) - 1 for number in broken], why

    async def _how_to_be_durable(self) -> str:
        """The command that confirms durability (or NEEDS_NOTHING), or "!" and what is wrong."""
        info = await self.redis.info("persistence")
        server = await self.redis.info("server")
        replicas = (await self.redis.info("replication")).get("connected_slaves", 0)
        if info.get("aof_enabled"):
            version = str(server.get("valkey_version") or server.get("redis_version", "0"))
            if tuple(int(part) for part in version.split(".")[:2]) >= (7, 2):
                return "WAITAOF 1 0 2000"
            try:
                if (await self.redis.config_get("appendfsync")).get("appendfsync") == "always":
                    return NEEDS_NOTHING
            except ResponseError:  # no right to ask; the replicas may do
                pass
        if int(replicas) >= 1:
            return "WAIT 1 2000"
        return "!Redis keeps nothing on disk: set appendonly yes and appendfsync always, or give it a replica"


def decode(raw: bytes | None, kind: type[T], name: str) -> T | None:
    """What was stored; what does not decode is logged and counts as not there.

    A lost record is safe: its key is looked up in EC2 before anything is launched for it.
    """
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        _log.error("value.refused", name=name, kind=kind.__name__)
        return None
