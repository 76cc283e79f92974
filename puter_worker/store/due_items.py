"""Due items: members of a sorted set, each with the time from which a worker should process it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from puter_client.contract.key import PuterKey
from puter_worker.store import names
from puter_worker.store.database import Database
from puter_worker.store.targets import TargetIndex
from puter_worker.store.txn import Txn

# Redis TIME as a worker knows it may go back a little when it is learned anew; that makes nothing late.
SLACK_S = 1.0


class DueItems:
    """One sorted set of members, with the time from which each is due.

    A claim makes an item due again later, so an item that a dead worker had claimed becomes due again by itself.
    Nothing is put off for longer than `longest_s`: an item that is due later than that was added before Redis's clock
    was set back, and is due now.
    """

    def __init__(self, db: Database, name: str, *, topic: str | None, longest_s: float) -> None:
        """`name`: the sorted set's name; `topic`: its stages are woken by a change (see `wakeups`); None wakes none."""
        self._db = db
        self.name = name
        self._topic = topic
        self._longest_s = longest_s + SLACK_S

    @classmethod
    def of(cls, db: Database, what: str, target: str, *, topic: str, longest_s: float) -> DueItems:
        """The items of a target that one stage processes; `what` names them."""
        return cls(db, names.due(what, target), topic=topic, longest_s=longest_s)

    def add(self, txn: Txn, member: str | bytes, at: float, *, if_new: bool = False) -> None:
        """Make the member due from this time on. `if_new`: a member that is already in the set keeps its time."""
        txn.do("ZADD", self.name, *(["NX"] if if_new else []), at, member)
        txn.keep(self.name, self._db.timings.keep_s)
        self._wake(txn)

    def reschedule(self, txn: Txn, member: str | bytes, at: float) -> None:
        """Make the member due from this time on, if it is still in the set."""
        txn.do("ZADD", self.name, "XX", at, member)
        self._wake(txn)

    def _wake(self, txn: Txn) -> None:
        if self._topic is not None:
            txn.wake(self._topic)

    def remove(self, txn: Txn, member: str | bytes) -> None:
        """Remove a member that is done or no longer needed."""
        txn.do("ZREM", self.name, member)

    def expect(self, txn: Txn, member: str) -> int:
        """Guard: the member is still in the set."""
        return txn.expect_member(self.name, member)

    async def claim(self, most: int, until: float) -> list[bytes]:
        """Claim up to `most` due members until that time: no other worker gets them before."""
        now = self._db.now()
        late = now + self._longest_s
        return await self._db.scripts.claim(self.name, now=now, until=until, most=most, late=late) if most else []

    async def claim_these(self, members: Iterable[str], until: float) -> None:
        """Claim these members, which are due, until that time."""
        await self._db.redis.zadd(self.name, dict.fromkeys(members, until), xx=True)

    async def due(self, now: float, most: int | None = None) -> dict[str, float]:
        """The members that are due, with their times, the earliest first; at most `most` of them."""
        limit = {} if most is None else {"start": 0, "num": most}
        async with self._db.redis.pipeline(transaction=False) as pipe:
            pipe.zrangebyscore(self.name, f"({now + self._longest_s}", "+inf", **limit)
            pipe.zrangebyscore(self.name, "-inf", now, withscores=True, **limit)
            late, pairs = await pipe.execute()
        found = {member.decode(): 0.0 for member in late} | {member.decode(): at for member, at in pairs}
        return dict(list(found.items())[:most])

    async def has(self, member: str) -> bool:
        """Whether the member is in the set, due or not."""
        return await self._db.redis.zscore(self.name, member) is not None

    async def next_due(self) -> float | None:
        """When the earliest member is due; None if there is none."""
        return self.earliest(await self._db.redis.zrange(self.name, 0, 0, withscores=True))

    def earliest(self, first: Sequence[tuple[bytes, float]]) -> float | None:
        """When the earliest member is due; `first`: it with its time, or nothing if there is none."""
        if not first:
            return None
        at = float(first[0][1])
        return at if at <= self._db.now() + self._longest_s else 0.0


class DueByNamespace:
    """Due items of each target. Each namespace has its own sorted set, so that none waits for another's items."""

    def __init__(
        self,
        db: Database,
        targets: TargetIndex,
        *,
        groups: Callable[[str], str],
        items: Callable[[str, str], str],
        topic: Callable[[str], str],
        longest_s: float,
    ) -> None:
        """`groups` gives the name of a target's set of namespaces, `items` that of a namespace's sorted set."""
        self._db = db
        self._targets = targets
        self._groups = groups
        self._items = items
        self._topic = topic
        self._longest_s = longest_s

    def of(self, target: str, namespace: str) -> DueItems:
        """One namespace's items; their members are tags."""
        topic, items = self._topic(target), self._items(target, namespace)
        return DueItems(self._db, items, topic=topic, longest_s=self._longest_s)

    def add(self, txn: Txn, target: str, key: PuterKey, at: float, *, if_new: bool = False) -> None:
        """Make the key due in this target from this time on. `if_new`: a key that is already there keeps its time."""
        self.of(target, key.namespace).add(txn, key.tag, at, if_new=if_new)
        txn.once("SADD", self._groups(target), key.namespace)
        txn.keep(self._groups(target), self._db.timings.keep_s)
        self._targets.put(txn, target, at)

    def remove(self, txn: Txn, target: str, key: PuterKey) -> None:
        """Remove a key that is done or no longer needed."""
        self.of(target, key.namespace).remove(txn, key.tag)

    def expect(self, txn: Txn, target: str, key: PuterKey) -> int:
        """Guard: the key is still there."""
        return self.of(target, key.namespace).expect(txn, key.tag)

    async def due(self, target: str, namespace: str, now: float, most: int) -> dict[str, float]:
        """The tags of a namespace that are due, with their times, the earliest first."""
        return await self.of(target, namespace).due(now, most)

    async def namespaces(self, target: str) -> dict[str, float]:
        """Namespaces with items in this target, each with the time at which its earliest item is due.

        A namespace without items is removed from the target's set.
        """
        found = [raw.decode() for raw in await self._db.redis.smembers(self._groups(target))]
        if not found:
            return {}
        async with self._db.redis.pipeline(transaction=False) as pipe:
            for namespace in found:
                pipe.zrange(self._items(target, namespace), 0, 0, withscores=True)
            firsts = await pipe.execute()
        due: dict[str, float] = {}
        for namespace, first in zip(found, firsts, strict=True):
            at = self.of(target, namespace).earliest(first)
            if at is None:
                await self._db.scripts.leave(self._groups(target), self._items(target, namespace), namespace)
            else:
                due[namespace] = at
        return due
