"""A client's access to Redis: it appends requests and reads what workers published, nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from puter_client.contract.batch import BatchInfo, BatchRow
from puter_client.contract.console import Console
from puter_client.contract.errors import StoreUnavailable
from puter_client.contract.health import WorkerHealth
from puter_client.contract.key import TAG, PuterKey
from puter_client.contract.output import Output
from puter_client.contract.phase import LIVE
from puter_client.contract.record import Event, Record
from puter_client.contract.request import BATCH_ID, Request
from puter_client.store import names
from puter_client.store.redis_connection import check_url, connection_pool
from puter_client.store.redis_errors import why_refused
from puter_client.timings import DEFAULT_TIMINGS, ClientTimings

if TYPE_CHECKING:
    from redis.asyncio import Redis

# Requests in one transaction: so many that its round trip does not matter, so few that no other client waits.
APPEND_AT_ONCE = 1_000
READ_AT_ONCE = 2_000

T = TypeVar("T")
_record_decoder = msgspec.json.Decoder(Record)
_row_decoder = msgspec.json.Decoder(BatchRow)
_info_decoder = msgspec.json.Decoder(BatchInfo)
_event_decoder = msgspec.json.Decoder(Event)
_output_decoder = msgspec.json.Decoder(Output)
_console_decoder = msgspec.json.Decoder(Console)
_health_decoder = msgspec.json.Decoder(WorkerHealth)
_request_encoder = msgspec.json.Encoder()


class ClientStore:
    """A client's view of Redis. Nothing read is trusted.

    A value that cannot be decoded, or has not the name that it should have, counts as missing.

    Attributes:
        timings: of the client.
    """

    def __init__(
        self, redis: Redis, url: str, timings: ClientTimings = DEFAULT_TIMINGS, *, url_from: str = "the Redis URL"
    ) -> None:
        self._redis = redis
        self._url = url
        self._url_from = url_from
        self.timings = timings

    @classmethod
    def connect(
        cls, url: str, *, timings: ClientTimings = DEFAULT_TIMINGS, url_from: str = "the Redis URL"
    ) -> ClientStore:
        """A store on the Redis at `url`; it connects with the first command. `url_from`: what errors call the URL.

        Raises:
            InvalidInput: it is not the URL of a Redis.
        """
        from redis.asyncio import Redis

        pool = connection_pool(check_url(url, named_by=url_from), max_connections=8)
        return cls(Redis(connection_pool=pool), url, timings, url_from=url_from)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        from redis.exceptions import RedisError

        try:
            yield self._redis
        except (RedisError, OSError) as error:
            raise StoreUnavailable(why_refused(self._url, error, named_by=self._url_from)) from None

    async def append(self, namespace: str, requests: Sequence[Request]) -> None:
        """Append requests to the namespace's inbox, in order, and add the namespace to the ready set.

        Raises:
            StoreUnavailable: Redis did not accept them; earlier chunks of 1,000 may be in the inbox.
        """
        async with self._connected() as redis:
            for start in range(0, len(requests), APPEND_AT_ONCE):
                encoded = [_request_encoder.encode(request) for request in requests[start : start + APPEND_AT_ONCE]]
                async with redis.pipeline(transaction=True) as pipe:
                    pipe.rpush(names.inbox(namespace), *encoded)
                    pipe.sadd(names.READY, namespace)
                    pipe.publish(names.READY, "")  # wakes workers, and says nothing of whom
                    await pipe.execute()

    async def records(self, namespace: str, tags: Sequence[str]) -> dict[str, Record]:
        """Records by tag; a tag without a record is missing."""
        found: dict[str, Record] = {}
        async with self._connected() as redis:
            for start in range(0, len(tags), READ_AT_ONCE):
                chunk = tags[start : start + READ_AT_ONCE]
                async with redis.pipeline(transaction=False) as pipe:
                    for tag in chunk:
                        pipe.hget(names.record(PuterKey(namespace, tag)), "doc")
                    for tag, doc in zip(chunk, await pipe.execute(), strict=True):
                        record = _decoded(_record_decoder, doc)
                        # Tags end up in commands to paste and in ssh_config, so the one in the record must be this one.
                        if record is not None and record.tag == tag and record.namespace == namespace:
                            found[tag] = record
                alive = [tag for tag in chunk if tag in found and found[tag].phase in LIVE]
                if alive:
                    times = await redis.hmget(names.observed(namespace), alive)
                    found |= {tag: observed(found[tag], at) for tag, at in zip(alive, times, strict=True)}
        return found

    async def outputs(self, namespace: str, tags: Sequence[str]) -> dict[str, Output]:
        """The last of what workloads printed, by tag, whichever machine of the tag it was; others are missing."""
        found: dict[str, Output] = {}
        async with self._connected() as redis:
            for start in range(0, len(tags), READ_AT_ONCE):
                chunk = tags[start : start + READ_AT_ONCE]
                async with redis.pipeline(transaction=False) as pipe:
                    for tag in chunk:
                        pipe.get(names.output(PuterKey(namespace, tag)))
                    for tag, raw in zip(chunk, await pipe.execute(), strict=True):
                        output = _decoded(_output_decoder, raw)
                        if output is not None:
                            found[tag] = output
        return found

    async def console(self, key: PuterKey) -> Console | None:
        """What the console of the key's machine showed when somebody last asked for it; None a minute later."""
        async with self._connected() as redis:
            return _decoded(_console_decoder, await redis.get(names.console(key)))

    async def tags(self, namespace: str, *, ended_since: float | None = None) -> list[str]:
        """Tags of a namespace that have not ended, or ended after `ended_since` (None: all tags)."""
        async with self._connected() as redis:
            low: float | str = "-inf" if ended_since is None else ended_since
            raws = await redis.zrangebyscore(names.index(namespace), low, "+inf")
        return [tag for tag in map(_name, raws) if TAG.fullmatch(tag)]

    async def events(self, key: PuterKey) -> list[Event]:
        """A key's timeline, oldest first."""
        async with self._connected() as redis:
            return _decoded_all(_event_decoder, await redis.lrange(names.events(key), 0, -1))

    async def batch(self, namespace: str, batch_id: str) -> tuple[BatchInfo | None, dict[str, BatchRow]]:
        """A batch's info and its rows by tag."""
        async with self._connected() as redis:
            fields: dict[bytes, bytes] = await redis.hgetall(names.batch(namespace, batch_id))
        info = _decoded(_info_decoder, fields.pop(names.BATCH_INFO.encode(), None))
        rows = {_name(tag): _decoded(_row_decoder, row) for tag, row in fields.items()}
        return info, {tag: row for tag, row in rows.items() if row is not None and TAG.fullmatch(tag)}

    async def rows(self, namespace: str, batch_id: str, tags: Sequence[str]) -> dict[str, BatchRow]:
        """Rows of a batch by tag; a row that no worker has written yet is missing."""
        if not tags:
            return {}
        async with self._connected() as redis:
            raws = await redis.hmget(names.batch(namespace, batch_id), list(tags))
        rows = {tag: _decoded(_row_decoder, raw) for tag, raw in zip(tags, raws, strict=True)}
        return {tag: row for tag, row in rows.items() if row is not None}

    async def batches(self, namespace: str, *, last: int) -> list[BatchInfo]:
        """The latest batches of a namespace, newest first."""
        found: list[BatchInfo] = []
        start = 0
        async with self._connected() as redis:
            # What cannot be used may stand before what can.
            while len(found) < last and (
                ids := await redis.zrange(names.batches(namespace), start, start + last - 1, desc=True)
            ):
                start += len(ids)
                async with redis.pipeline(transaction=False) as pipe:
                    for batch_id in ids:
                        pipe.hget(names.batch(namespace, _name(batch_id)), names.BATCH_INFO)
                    infos = _decoded_all(_info_decoder, await pipe.execute())
                found += [info for info in infos if BATCH_ID.fullmatch(info.batch_id)]
        return found[:last]

    async def waiting(self, namespace: str) -> int:
        """Number of requests in the inbox; 0 if the Redis user may not read it."""
        from redis.exceptions import NoPermissionError

        async with self._connected() as redis:
            try:
                return int(await redis.llen(names.inbox(namespace)))
            except NoPermissionError:
                return 0

    async def workers(self) -> list[WorkerHealth]:
        """Workers that announced themselves in the last 30 s."""
        async with self._connected() as redis:
            seconds, _ = await redis.time()
            ids = await redis.zrangebyscore(names.WORKERS, seconds - self.timings.worker_silent_after_s, "+inf")
            async with redis.pipeline(transaction=False) as pipe:
                for worker_id in ids:
                    pipe.get(names.worker(_name(worker_id)))
                return _decoded_all(_health_decoder, await pipe.execute())

    async def worker_seen_at(self) -> float | None:
        """When a worker last announced itself; None if none has for long, or the last one has ended in order."""
        async with self._connected() as redis:
            latest = await redis.zrange(names.WORKERS, 0, 0, desc=True, withscores=True)
        return float(latest[0][1]) if latest else None

    async def now(self) -> float:
        """Redis TIME, in seconds since 1970."""
        async with self._connected() as redis:
            seconds, micros = await redis.time()
            return float(seconds + micros / 1e6)

    @asynccontextmanager
    async def changes(self, namespace: str) -> AsyncIterator[Changes]:
        """A subscription to the changes of a namespace, open while inside."""
        pubsub: Any = self._redis.pubsub(ignore_subscribe_messages=True)
        try:
            async with self._connected():
                await pubsub.subscribe(names.channel(namespace))
            yield Changes(pubsub, self._connected)
        finally:
            await pubsub.aclose()


class Changes:
    """A subscription to a namespace's channel: a hint to read again, never the state itself."""

    def __init__(self, pubsub: Any, connected: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        self._pubsub = pubsub
        self._connected = connected

    async def wait(self, timeout_s: float) -> set[str]:
        """Tags that have changed, as soon as there is one; an empty set after `timeout_s`."""
        changed: set[str] = set()
        async with self._connected():
            message = await self._pubsub.get_message(timeout=timeout_s)
            while message is not None:
                changed.add(_name(bytes(message["data"])))
                message = await self._pubsub.get_message(timeout=0.0)
        return changed


def _name(raw: bytes) -> str:
    """A name from Redis; what is not UTF-8 is the name of nothing that a worker has written."""
    return raw.decode(errors="replace")


def observed(record: Record, raw: bytes | None) -> Record:
    """The record with the time at which EC2 last showed its machine, which is kept apart from it."""
    try:
        at = float(raw or "nan")
    except ValueError:
        return record
    return record.replace(observed_at=at) if at > (record.observed_at or 0.0) else record


def _decoded(decoder: msgspec.json.Decoder[T], raw: bytes | None) -> T | None:
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _decoded_all(decoder: msgspec.json.Decoder[T], raws: Iterable[bytes | None]) -> list[T]:
    return [item for item in (_decoded(decoder, raw) for raw in raws) if item is not None]
