"""Typed methods for the Lua scripts beside this module, which are loaded once and run by their hash."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any


class Scripts:
    """One method for each script; redis-py loads a script again if Redis has forgotten it."""

    def __init__(self, redis: Any) -> None:
        def registered(name: str) -> Any:
            return redis.register_script(files(__package__).joinpath(f"{name}.lua").read_text())

        self._txn = registered("txn")
        self._read = registered("read")
        self._feed = registered("feed")
        self._start = registered("start")
        self._take = registered("take")
        self._ready = registered("ready")
        self._cut = registered("cut")
        self._leave = registered("leave")
        self._claim = registered("claim")
        self._lease = registered("lease")
        self._release = registered("release")
        self._bucket = registered("bucket")

    async def txn(self, args: Sequence[bytes], *, pipeline: Any = None) -> Any:
        """Run a transaction; returns the 1-based numbers of broken guards (in a pipeline, its `execute` does)."""
        return await self._txn(args=args, client=pipeline) if pipeline is not None else await self._txn(args=args)

    async def read(self, names: Sequence[str], *fields: str, most_bytes: int) -> list[tuple[bytes | None, ...]]:
        """Read strings, or these fields of hashes, of the first of these names, until there are so many bytes.

        What is stored under each is a tuple; at least one name is read.
        """
        found = iter(await self._read(keys=names, args=[most_bytes, *fields]))
        return list(zip(*[found] * max(1, len(fields)), strict=True))

    async def feed(
        self,
        keys: Sequence[str],
        *,
        namespace: str,
        now_ms: int,
        room: int,
        restart_s: float,
        place_kept_s: float,
        job_kept_ms: int,
        backlog_kept_s: int,
        lock_prefix: str,
        job_prefix: str,
    ) -> int:
        """Move tags from a namespace's backlog into arq's queue, as far as there is room; returns how many."""
        kept = (restart_s, place_kept_s, job_kept_ms, backlog_kept_s)
        return int(await self._feed(keys=keys, args=[namespace, now_ms, room, *kept, lock_prefix, job_prefix]))

    async def start(
        self,
        queue: str,
        ids: Sequence[str],
        *,
        now_ms: int,
        late_ms: int,
        lock_ms: int,
        lock_prefix: str,
        places_prefix: str,
        holder: str,
    ) -> dict[str, int]:
        """Lock due jobs; returns the score in the queue of each job that the holder has locked."""
        args = [now_ms, lock_ms, lock_prefix, places_prefix, holder, now_ms + late_ms, *ids]
        answer = iter(await self._start(keys=[queue], args=args))
        return {job_id.decode(): int(float(score)) for job_id, score in zip(answer, answer, strict=True)}

    async def take(
        self, keys: Sequence[str], *, most: int, most_bytes: int, largest: int, inbox: str, for_ms: int
    ) -> tuple[list[bytes], bytes | None]:
        """Read the head of an inbox; returns the requests, and how often the inbox was taken from."""
        count, *requests = await self._take(keys=keys, args=[most, most_bytes, largest, inbox, for_ms])
        return requests, count or None

    async def ready(
        self, ready: str, cursor: int, *, most: int, most_bytes: int, longest: int, inbox_prefix: str
    ) -> tuple[list[bytes], int, int, int]:
        """Read a part of the ready set from a cursor on.

        Returns the names with requests, how many without and how many that were too long were removed, and the next
        cursor: 0 at the end.
        """
        args = [cursor, most, most_bytes, longest, inbox_prefix]
        after, empty, too_long, *names = await self._ready(keys=[ready], args=args)
        return names, int(empty), int(too_long), int(after)

    async def cut(self, inbox: str, *, most_bytes: int) -> int:
        """Drop the newest requests of an inbox until it takes no more memory than this; returns how many."""
        return int(await self._cut(keys=[inbox], args=[most_bytes]))

    async def leave(self, groups: str, items: str, group: str) -> None:
        """Remove a member from a set of groups if its own sorted set is empty."""
        await self._leave(keys=[groups, items], args=[group])

    async def claim(self, name: str, *, now: float, until: float, most: int, late: float) -> list[bytes]:
        """Claim due members of a sorted set until a time; none may be due later than `late`."""
        return list(await self._claim(keys=[name], args=[now, until, most, late]))

    async def lease(self, name: str, holder: str, *, for_ms: int) -> int:
        """Take or renew a lease; returns 0 if the holder has it now, else how many ms another one still has it."""
        return int(await self._lease(keys=[name], args=[holder, for_ms]))

    async def release(self, name: str, holder: str) -> None:
        """Release a lease, if the holder has it."""
        await self._release(keys=[name], args=[holder])

    async def bucket(
        self, keys: Sequence[str], *, call: str, arrives_s: float, amounts: Sequence[float]
    ) -> tuple[int, float]:
        """Take tokens from several buckets or from none; returns the first one's whole tokens, and seconds to wait."""
        available, wait_s = await self._bucket(keys=keys, args=[call, arrives_s, *amounts])
        return int(float(available)), float(wait_s)
