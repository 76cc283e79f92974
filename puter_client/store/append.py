"""How a client appends requests: in one transaction, and where Redis may fail over, until a replica has them, too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from puter_client.store import names

# Requests in one transaction: so many that its round trip does not matter, so few that no other client waits, and so
# few bytes that a slow line carries them within the limit of one answer.
AT_ONCE, BYTES_AT_ONCE = 1_000, 1_000_000
_EXEC = 4  # its place among the answers below
_NOT_REPLICATED = (
    "warning: Redis has the requests, but no replica has confirmed them: if Redis fails over now, they may be lost"
)
_NOT_PERMITTED = (
    "warning: Redis has the requests, but its user may not ask whether a replica has them: add +wait to its rules"
)


def parts(encoded: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Requests in order, in parts that one transaction appends; a larger request is a part of its own. Pure."""
    part: list[bytes] = []
    size = 0
    for one in encoded:
        if part and (len(part) == AT_ONCE or size + len(one) > BYTES_AT_ONCE):
            yield part
            part, size = [], 0
        part.append(one)
        size += len(one)
    if part:
        yield part


def _put(pipe: Any, inbox: str, encoded: Sequence[bytes]) -> None:
    pipe.rpush(names.inbox(inbox), *encoded)
    pipe.sadd(names.READY, inbox)
    pipe.publish(names.READY, "")  # wakes workers, and says nothing of whom


async def append(redis: Any, *, inbox: str, encoded: Sequence[bytes]) -> None:
    """Append requests to an inbox, and add its name to the ready set."""
    async with redis.pipeline(transaction=True) as pipe:
        _put(pipe, inbox, encoded)
        await pipe.execute()


async def append_replicated(redis: Any, *, inbox: str, encoded: Sequence[bytes], within_ms: int) -> str | None:
    """The same, until a replica has confirmed it; returns what to tell if none has `within_ms` (None: one has)."""
    from redis.exceptions import NoPermissionError

    # WAIT covers the writes of its own connection, and a pipeline uses one; within a transaction it waits for nothing.
    async with redis.pipeline(transaction=False) as pipe:
        pipe.execute_command("MULTI")
        _put(pipe, inbox, encoded)
        pipe.execute_command("EXEC")
        pipe.wait(1, within_ms)
        *answers, replicas = await pipe.execute(raise_on_error=False)
    refused = next((answer for answer in answers if isinstance(answer, Exception)), None)
    if refused is None:  # an answer of the transaction may be one, too
        refused = next((answer for answer in answers[_EXEC] if isinstance(answer, Exception)), None)
    if refused is None and isinstance(replicas, NoPermissionError):
        return _NOT_PERMITTED
    if refused is not None or isinstance(replicas, Exception):
        raise refused or replicas
    return None if replicas else _NOT_REPLICATED
