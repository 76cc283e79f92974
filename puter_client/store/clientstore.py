"""A client's access to Redis: it appends requests and reads what workers published, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from puter_client.contract.batch import BatchInfo, BatchRow
from puter_client.contract.console import Console
from puter_client.contract.errors import InvalidInput, NotPermitted, StoreUnavailable
from puter_client.contract.health import OwnHealth, WorkerHealth
from puter_client.contract.inbox import Inbox
from puter_client.contract.key import TAG, USER, USER_ALPHABET, PuterKey
from puter_client.contract.output import Output
from puter_client.contract.phase import LIVE
from puter_client.contract.record import Event, Record
from puter_client.contract.request import BATCH_ID, Request
from puter_client.store import names
from puter_client.store.append import append, append_replicated, parts
from puter_client.store.changes import Changes, changes
from puter_client.store.outage import Limit, Outages, Tell
from puter_client.store.redis_connection import answer_s, check_url, connection_pool
from puter_client.store.redis_url import RedisUrl
from puter_client.timings import DEFAULT_TIMINGS, ClientTimings

if TYPE_CHECKING:
    from redis.asyncio import Redis

# So many that a round trip does not matter, so few that a slow line carries them within the limit of one answer.
READ_AT_ONCE = 500
OUTPUTS_AT_ONCE = 100
# A row has a few hundred bytes, and a batch up to 100,000 rows: read at once, they would be more than the server lets
# wait for one client.
ROWS_AT_ONCE = 2_000

T = TypeVar("T")
_record_decoder = msgspec.json.Decoder(Record)
_row_decoder = msgspec.json.Decoder(BatchRow)
_info_decoder = msgspec.json.Decoder(BatchInfo)
_event_decoder = msgspec.json.Decoder(Event)
_output_decoder = msgspec.json.Decoder(Output)
_console_decoder = msgspec.json.Decoder(Console)
_health_decoder = msgspec.json.Decoder(WorkerHealth)
_own_health_decoder = msgspec.json.Decoder(OwnHealth)
_request_encoder = msgspec.json.Encoder()


class ClientStore:
    """A client's view of Redis. Nothing read is trusted.

    A value that cannot be decoded, or has not the name that it should have, counts as missing.

    Attributes:
        timings: of the client.
        user: the Redis user, by whose name workers know who sent a request; None where there is none.
    """

    def __init__(
        self,
        redis: Redis,
        url: str,
        timings: ClientTimings = DEFAULT_TIMINGS,
        *,
        url_from: str = "the Redis URL",
        tell: Tell | None = None,
    ) -> None:
        self._redis = redis
        self._tell = tell
        self._fails_over = bool(RedisUrl.parse(url).sentinels)
        self.timings = timings
        self._outages = Outages(
            url, named_by=url_from, answer_s=answer_s(url, timings.answer_s), timings=timings, tell=tell
        )
        self.user = RedisUrl.parse(url).named_user

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        timings: ClientTimings = DEFAULT_TIMINGS,
        url_from: str = "the Redis URL",
        tell: Tell | None = None,
    ) -> ClientStore:
        """A store on the Redis at `url`; it connects with the first command.

        `url_from`: what errors call the URL. `tell`: called with a line while a Redis that has answered before is away
        and is waited for; None ends with an error at once.

        Raises:
            InvalidInput: it is not the URL of a Redis, or its user has a name that no inbox can have.
        """
        from redis.asyncio import Redis

        user = RedisUrl.parse(check_url(url, named_by=url_from)).named_user
        if user is not None and not USER.fullmatch(user):
            raise InvalidInput(f"names a Redis user whose name Puter cannot use: use {USER_ALPHABET}", subject=url_from)
        pool = connection_pool(url, max_connections=8, timeout_s=None)  # Outages has the limits
        return cls(Redis(connection_pool=pool), url, timings, url_from=url_from, tell=tell)

    async def aclose(self) -> None:
        """Close the connections; a server that hangs is not waited for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.timings.close_s):
                await self._redis.aclose()
                await self._redis.connection_pool.disconnect()

    async def _ask(self, question: Callable[[Any], Awaitable[T]]) -> T:
        """Redis's answer to a question of one round trip."""
        return await self._outages.ask(lambda: question(self._redis))

    async def _ask_each(self, ask: Callable[[Any, Any], object], about: Iterable[Any]) -> list[Any]:
        """The answers to one command about each; `ask` adds it to a pipeline."""
        about = list(about)
        if not about:
            return []

        async def question(redis: Redis) -> list[Any]:
            async with redis.pipeline(transaction=False) as pipe:
                for one in about:
                    ask(pipe, one)
                return await pipe.execute()

        return await self._ask(question)

    async def append(self, namespace: str, requests: Sequence[Request]) -> None:
        """Append requests to this client's inbox in the namespace, in order, and add the inbox to the ready set.

        With Sentinels, a replica has them then, or `tell` is called.

        Raises:
            NotPermitted: Redis permits none of them to this user.
            StoreUnavailable: Redis did not accept them; earlier ones may be in the inbox.
        """
        inbox = str(Inbox(namespace, self.user))
        unconfirmed: str | None = None
        sent = False
        for encoded in parts(map(_request_encoder.encode, requests)):
            try:
                # What was not confirmed once is told: the rest need not wait for it again.
                if self._fails_over and unconfirmed is None:
                    within_ms = int(self.timings.replicated_s * 1_000)
                    unconfirmed = await self._ask(
                        partial(append_replicated, inbox=inbox, encoded=encoded, within_ms=within_ms)
                    )
                else:
                    await self._ask(partial(append, inbox=inbox, encoded=encoded))
            except NotPermitted as error:
                if sent:
                    raise StoreUnavailable(str(error)) from None
                raise
            sent = True
        if unconfirmed is not None and self._tell is not None:
            self._tell(unconfirmed)

    async def records(self, namespace: str, tags: Sequence[str]) -> dict[str, Record]:
        """Records by tag; a tag without a record is missing."""
        found: dict[str, Record] = {}
        for start in range(0, len(tags), READ_AT_ONCE):
            chunk = tags[start : start + READ_AT_ONCE]
            keys = [PuterKey(namespace, tag) for tag in chunk]
            docs = await self._ask_each(lambda pipe, key: pipe.hget(names.record(key), "doc"), keys)
            for tag, doc in zip(chunk, docs, strict=True):
                record = _decoded(_record_decoder, doc)
                # Tags end up in commands to paste and in ssh_config, so the one in the record must be this one.
                if record is not None and record.tag == tag and record.namespace == namespace:
                    found[tag] = record
            alive = [tag for tag in chunk if tag in found and found[tag].phase in LIVE]
            if alive:
                times = await self._ask(_method("hmget", names.observed(namespace), alive))
                found |= {tag: observed(found[tag], at) for tag, at in zip(alive, times, strict=True)}
        return found

    async def outputs(self, namespace: str, tags: Sequence[str]) -> dict[str, Output]:
        """The last of what workloads printed, by tag, whichever machine of the tag it was; others are missing."""
        found: dict[str, Output] = {}
        for start in range(0, len(tags), OUTPUTS_AT_ONCE):
            chunk = tags[start : start + OUTPUTS_AT_ONCE]
            keys = [PuterKey(namespace, tag) for tag in chunk]
            raws = await self._ask_each(lambda pipe, key: pipe.get(names.output(key)), keys)
            outputs = zip(chunk, (_decoded(_output_decoder, raw) for raw in raws), strict=True)
            found |= {tag: output for tag, output in outputs if output is not None}
        return found

    async def console(self, key: PuterKey) -> Console | None:
        """What the console of the key's machine showed when somebody last asked for it; None a minute later."""
        return _decoded(_console_decoder, await self._ask(_method("get", names.console(key))))

    async def tags(self, namespace: str, *, ended_since: float | None = None) -> list[str]:
        """Tags of a namespace that have not ended, or ended after `ended_since` (None: all tags)."""
        low: float | str = "-inf" if ended_since is None else ended_since
        raws = await self._ask(_method("zrangebyscore", names.index(namespace), low, "+inf"))
        return [tag for tag in map(_name, raws) if TAG.fullmatch(tag)]

    async def events(self, key: PuterKey) -> list[Event]:
        """A key's timeline, oldest first."""
        return _decoded_all(_event_decoder, await self._ask(_method("lrange", names.events(key), 0, -1)))

    async def batch(self, namespace: str, batch_id: str) -> tuple[BatchInfo | None, dict[str, BatchRow]]:
        """A batch's info and its rows by tag."""
        name, cursor = names.batch(namespace, batch_id), 0
        fields: dict[bytes, bytes] = {}
        while True:
            cursor, some = await self._ask(_method("hscan", name, cursor, count=ROWS_AT_ONCE))
            fields |= some
            if cursor == 0:
                break
        info = _decoded(_info_decoder, fields.pop(names.BATCH_INFO.encode(), None))
        rows = {_name(tag): _decoded(_row_decoder, row) for tag, row in fields.items()}
        return info, {tag: row for tag, row in rows.items() if row is not None and TAG.fullmatch(tag)}

    async def rows(self, namespace: str, batch_id: str, tags: Sequence[str]) -> dict[str, BatchRow]:
        """Rows of a batch by tag; a row that no worker has written yet is missing."""
        rows: dict[str, BatchRow] = {}
        for start in range(0, len(tags), ROWS_AT_ONCE):
            some = tags[start : start + ROWS_AT_ONCE]
            raws = await self._ask(_method("hmget", names.batch(namespace, batch_id), list(some)))
            found = zip(some, (_decoded(_row_decoder, raw) for raw in raws), strict=True)
            rows |= {tag: row for tag, row in found if row is not None}
        return rows

    async def batches(self, namespace: str, *, last: int) -> list[BatchInfo]:
        """The latest batches of a namespace, newest first."""
        found: list[BatchInfo] = []
        start = 0
        # What cannot be used may stand before what can.
        while len(found) < last:
            ids = await self._ask(_method("zrange", names.batches(namespace), start, start + last - 1, desc=True))
            if not ids:
                break
            start += len(ids)
            batches = [names.batch(namespace, _name(batch_id)) for batch_id in ids]
            raws = await self._ask_each(lambda pipe, name: pipe.hget(name, names.BATCH_INFO), batches)
            found += [info for info in _decoded_all(_info_decoder, raws) if BATCH_ID.fullmatch(info.batch_id)]
        return found[:last]

    async def waiting(self, namespace: str) -> int:
        """Number of requests in this client's inbox in the namespace; 0 if the Redis user may not read it."""
        return int(
            await self._ask(partial(_if_permitted, _method("llen", names.inbox(str(Inbox(namespace, self.user)))), 0))
        )

    async def is_all_taken(self, namespace: str) -> bool:
        """Whether workers have taken all that this client appended; False if its Redis user may not know."""
        question = _method("llen", names.inbox(str(Inbox(namespace, self.user))))
        return await self._ask(partial(_if_permitted, question, -1)) == 0

    async def call_workers(self) -> None:
        """Have workers look whether they are still announced; a user who may not publish has no effect."""
        await self._ask(partial(_if_permitted, _method("publish", names.READY, ""), 0))

    async def workers(self, namespace: str | None = None) -> list[WorkerHealth]:
        """Workers that announced themselves in the last 30 s, with what they publish for this namespace alone."""
        since = await self.now() - self.timings.worker_silent_after_s
        ids = await self._ask(_method("zrangebyscore", names.WORKERS, since, "+inf"))
        raws = await self._ask_each(lambda pipe, worker_id: pipe.get(names.worker(_name(worker_id))), ids)
        found = _decoded_all(_health_decoder, raws)
        if namespace is None or not found:
            return found
        raws = await self._ask_each(lambda pipe, one: pipe.get(names.own_health(namespace, one.worker_id)), found)
        own = [_decoded(_own_health_decoder, raw) for raw in raws]
        return [
            health
            if more is None
            else msgspec.structs.replace(
                health,
                profiles=(*health.profiles, *more.profiles),
                stages=(*health.stages, *more.stages),
                credentials=(*health.credentials, *more.credentials),
            )
            for health, more in zip(found, own, strict=True)
        ]

    async def worker_seen_at(self) -> float | None:
        """When a worker last announced itself; None if none has for long, or the last one has ended in order."""
        latest = await self._ask(_method("zrange", names.WORKERS, 0, 0, desc=True, withscores=True))
        return float(latest[0][1]) if latest else None

    async def now(self) -> float:
        """Redis TIME, in seconds since 1970."""
        seconds, micros = await self._ask(_method("time"))
        return float(seconds + micros / 1e6)

    def limit(self, seconds: float) -> Limit:
        """A time limit that begins anew after Redis was away."""
        return Limit(self._outages, seconds)

    def changes(self, namespace: str) -> AbstractAsyncContextManager[Changes]:
        """A subscription to the changes of a namespace, open while inside."""
        return changes(self._redis, namespace, self._outages)


def _method(name: str, *arguments: Any, **options: Any) -> Callable[[Any], Awaitable[Any]]:
    """One command, as a question."""
    return lambda redis: getattr(redis, name)(*arguments, **options)


async def _if_permitted(question: Callable[[Any], Awaitable[T]], otherwise: T, redis: Any) -> T:
    from redis.exceptions import NoPermissionError

    try:
        return await question(redis)
    except NoPermissionError:
        return otherwise


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
