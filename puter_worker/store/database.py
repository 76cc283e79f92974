"""The workers' connection to Redis: guarded transactions, durability, errors."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import msgspec
import structlog
from redis.exceptions import RedisError, ResponseError

from puter_client.store.sentinel import PrimaryPool
from puter_worker.clock import Clock
from puter_worker.store.scripts import Scripts
from puter_worker.store.txn import Txn
from puter_worker.timings import Timings

if TYPE_CHECKING:
    from redis.asyncio import Redis

_log = structlog.get_logger("puter.store")
# How many answers of TIME are tried for a first one that is not too slow.
_FIRST_ANSWERS = 3
# Redis serves no other client while a transaction runs, so transactions are short.
WRITE_AT_ONCE = 50
READ_AT_ONCE = 500
# Of what clients may have made large, an answer has so much and ten values more, whatever is asked for: a spec has up
# to 300 KB, and deploy/redis.conf lets 32 MB wait for one client.
READ_BYTES = 4_000_000
ON_A_REPLICA = "WAIT 1 2000"
NEEDS_NOTHING = "nothing"  # every write is on disk before it is answered

T = TypeVar("T")


def _confirmed(answer: int | list[int]) -> int:
    """How many have confirmed: of WAITAOF's answer the first number, this Redis's own disk."""
    return answer[0] if isinstance(answer, list) else answer


def is_wrong_type(error: Exception) -> bool:
    """Whether Redis refused a command because a key holds another kind of value."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of Redis that decide whether a worker can use it.

    Attributes:
        cluster_enabled: whether keys are spread over several servers, so that no transaction may name two of them.
        maxmemory_policy: what Redis does when its memory is full.
    """

    cluster_enabled: bool
    maxmemory_policy: str

    @property
    def deletes_when_full(self) -> bool:
        """Whether a full Redis deletes keys of Puter's; with every policy but one it does, since all of them expire."""
        return self.maxmemory_policy != "noeviction"


class Database:
    """The connection and context that every part of the store shares.

    Attributes:
        redis: the client; only the parts of the store use it.
        scripts: the Lua scripts.
        clock: the estimate of Redis TIME.
        timings: intervals and retention.
        refusals: the errors for a command that Redis has understood and refused.
        errors: the errors for a Redis that does not answer; the command may have been carried out.
    """

    refusals: ClassVar[tuple[type[Exception], ...]] = (ResponseError,)
    errors: ClassVar[tuple[type[Exception], ...]] = (RedisError, OSError)

    def __init__(self, redis: Redis, *, clock: Clock, timings: Timings) -> None:
        self.redis: Any = redis
        self.scripts = Scripts(redis)
        self.clock = clock
        self.timings = timings
        self.durability: str | None = None
        self._fails_over = isinstance(redis.connection_pool, PrimaryPool)

    async def sync_clock(self) -> None:
        """Learn what Redis TIME is; call this from time to time."""
        for _ in range(_FIRST_ANSWERS):
            sent_at = self.clock.monotonic()
            seconds, micros = await self.redis.time()
            step_s = self.clock.learn(seconds + micros / 1e6, sent_at=sent_at, answered_at=self.clock.monotonic())
            if step_s is not None:
                _log.warning("redis.clock_set", by_s=round(step_s, 3))
            if self.clock.is_sure:
                return

    async def server_settings(self) -> ServerSettings:
        """Settings of Redis, from INFO: a worker's user has no right to CONFIG GET."""
        cluster, memory = await self.redis.info("cluster"), await self.redis.info("memory")
        return ServerSettings(
            cluster_enabled=bool(cluster.get("cluster_enabled")),
            maxmemory_policy=str(memory.get("maxmemory_policy", "noeviction")),
        )

    async def fullness(self) -> float:
        """Which part of its memory Redis uses, from 0 to 1; 0 if it has no limit."""
        memory = await self.redis.info("memory")
        limit = float(memory.get("maxmemory") or 0)
        return float(memory.get("used_memory") or 0) / limit if limit else 0.0

    def now(self) -> float:
        """Redis TIME, in seconds since 1970."""
        return self.clock.now()

    async def read(
        self, items: Sequence[T], name: Callable[[T], str], *fields: str
    ) -> AsyncIterator[list[tuple[T, tuple[bytes | None, ...]]]]:
        """What is stored for these items, under the name of each: a string, or these fields of a hash.

        It comes in their order, in as many parts as keep each answer small; ordinary values of 500 items are one.
        """
        at = 0
        while at < len(items):
            some = items[at : at + READ_AT_ONCE]
            found = await self.scripts.read([name(one) for one in some], *fields, most_bytes=READ_BYTES)
            yield list(zip(some, found, strict=False))
            at += len(found)

    async def commit(self, txn: Txn) -> list[int]:
        """Carry a transaction out; returns the numbers of broken guards (if there are any, nothing was written)."""
        broken = await self.scripts.txn(txn.args())
        return [int(number) - 1 for number in broken]

    async def commit_each(self, items: Sequence[T], put: Callable[[Txn, T], None]) -> list[T]:
        """Write many items in few transactions; each item has guards of its own.

        `put` adds one item to a transaction. An item whose guard is broken is not written; returns those written.
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
        """Carry a transaction out, and wait until it is sure to survive a crash of Redis.

        Where a replica may become the primary, one must have it too, if there is one.

        Returns the broken guards, and why the write is not durable (None: it is).
        """
        durability = self.durability or await self._how_to_be_durable()
        if durability.startswith("!"):
            return await self.commit(txn), durability[1:]
        self.durability = None if self._fails_over else durability  # the next primary may have other settings
        needed = [] if durability == NEEDS_NOTHING else [durability]
        if self._fails_over and ON_A_REPLICA not in needed and await self._replicas():
            needed.append(ON_A_REPLICA)
        if not needed:
            return await self.commit(txn), None
        # WAIT and WAITAOF cover the writes of their own connection, and a pipeline uses one connection.
        async with self.redis.pipeline(transaction=False) as pipe:
            await self.scripts.txn(txn.args(), pipeline=pipe)
            for command in needed:
                pipe.execute_command(*command.split())
            broken, *reached = await pipe.execute(raise_on_error=False)
        for answer in (broken, *reached):
            if isinstance(answer, Exception):
                self.durability = None
                raise answer
        missing = [command for command, count in zip(needed, map(_confirmed, reached), strict=True) if count < 1]
        if missing:
            self.durability = None  # a replica may have gone
        where = "on a replica" if ON_A_REPLICA in missing else "on disk"
        why = f"Redis did not confirm within 2 s that the launch is {where}" if missing else None
        return [int(number) - 1 for number in broken], why

    async def _replicas(self) -> int:
        return int((await self.redis.info("replication")).get("connected_slaves", 0))

    async def _how_to_be_durable(self) -> str:
        """The command that confirms durability, or NEEDS_NOTHING, or "!" followed by what is wrong."""
        info = await self.redis.info("persistence")
        server = await self.redis.info("server")
        if info.get("aof_enabled"):
            version = str(server.get("valkey_version") or server.get("redis_version", "0"))
            if tuple(int(part) for part in version.split(".")[:2]) >= (7, 2):
                return "WAITAOF 1 0 2000"
            try:
                if (await self.redis.config_get("appendfsync")).get("appendfsync") == "always":
                    return NEEDS_NOTHING
            except ResponseError:  # the ACL does not allow CONFIG; a replica may do
                pass
        if await self._replicas():
            return ON_A_REPLICA
        return "!Redis keeps nothing on disk: set appendonly yes and appendfsync always, or give it a replica"
