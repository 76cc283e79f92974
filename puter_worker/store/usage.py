"""What a namespace has: machines, vCPUs, launches of the last hour, requests that wait, records. A policy limits them.

Each is a set that follows from records, and that the transaction which writes a record keeps: nothing is counted up and
down, so whoever dies, no place is lost and none is taken twice. What is adopted from EC2 is a record like any other;
of a machine that has ended, and that Redis has forgotten, there is none: its launch alone is counted.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from puter_client.contract.phase import LIVE, ON_ITS_WAY
from puter_client.contract.record import Record
from puter_client.store import names as public
from puter_worker.store import names
from puter_worker.store.database import Database
from puter_worker.store.txn import Txn

HOUR_S = 3_600


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """How much of what a policy limits a namespace has.

    Attributes:
        machines: tags whose machine is alive, or is being launched.
        vcpus: of all these.
        launched: launches of the last hour.
        hour_ends_at: when the earliest of these is an hour old; None: there is none.
        tags: which tags these machines have.
    """

    machines: int = 0
    vcpus: int = 0
    launched: int = 0
    hour_ends_at: float | None = None
    tags: frozenset[str] = frozenset()


class Usage:
    """Reads what namespaces have, and guards launches and requests by it."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def follow(self, txn: Txn, old: Record | None, new: Record) -> None:
        """Keep the sets as the record says."""
        had, has = has_machine(old), has_machine(new)
        machines, hour = names.machines(new.namespace), names.launched(new.namespace)
        if has and (not had or old is None or old.vcpus != new.vcpus):
            txn.do("HSET", machines, new.tag, new.vcpus or 0)
            txn.keep(machines, self._db.timings.keep_s)
        elif had and not has:
            txn.do("HDEL", machines, new.tag)
        launch = launch_name(new.tag, new.generation)
        if has and not (had and old is not None and old.generation == new.generation):
            self.put_launches(txn, new.namespace, {launch: new.launched_at or new.changed_at})
        elif had and not has and new.instance_id is None:
            txn.do("ZREM", hour, launch)  # EC2 has launched nothing
        waits, waited = new.phase in ON_ITS_WAY, old is not None and old.phase in ON_ITS_WAY
        if waits and not waited:
            txn.do("SADD", names.waiting(new.namespace), new.tag)
            txn.keep(names.waiting(new.namespace), self._db.timings.keep_s)
        elif waited and not waits:
            txn.do("SREM", names.waiting(new.namespace), new.tag)

    def put_launches(self, txn: Txn, namespace: str, launches: Mapping[str, float]) -> None:
        """Count launches, by their names, with the times at which they were; none counts twice."""
        hour = names.launched(namespace)
        for name, at in launches.items():
            txn.do("ZADD", hour, at, name)
        txn.once("ZREMRANGEBYSCORE", hour, "-inf", self._db.now() // 60 * 60 - HOUR_S)
        txn.keep(hour, 2 * HOUR_S)

    async def read(self, namespace: str) -> Used:
        """What the namespace has now."""
        hour, since = names.launched(namespace), self._hour_ago()
        async with self._db.redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(names.machines(namespace))
            pipe.zcount(hour, since, "+inf")
            pipe.zrangebyscore(hour, since, "+inf", start=0, num=1, withscores=True)
            machines, launched, first = await pipe.execute()
        return Used(
            machines=len(machines),
            vcpus=sum(map(int, machines.values())),
            launched=int(launched),
            hour_ends_at=float(first[0][1]) + HOUR_S if first else None,
            tags=frozenset(tag.decode(errors="replace") for tag in machines),
        )

    async def requests(self, namespace: str) -> tuple[int, int]:
        """How many requests of the namespace wait for their machine, and how many records it has."""
        async with self._db.redis.pipeline(transaction=True) as pipe:
            pipe.scard(names.waiting(namespace))
            pipe.zcount(public.index(namespace), self._kept_since(), "+inf")
            waiting, records = await pipe.execute()
        return int(waiting), int(records)

    def expect_machines(self, txn: Txn, namespace: str, *, most: int, more: int) -> int:
        """Guard: with so many machines more, the namespace has at most `most`."""
        return txn.expect_fields_below(names.machines(namespace), most - more + 1)

    def expect_vcpus(self, txn: Txn, namespace: str, *, most: int, more: int) -> int:
        """Guard: with so many vCPUs more, the namespace has at most `most`."""
        return txn.expect_sum_below(names.machines(namespace), most - more + 1)

    def expect_launches(self, txn: Txn, namespace: str, *, most: int, more: int) -> int:
        """Guard: with so many launches more, the namespace had at most `most` within an hour."""
        return txn.expect_since_below(names.launched(namespace), self._hour_ago(), most - more + 1)

    def expect_waiting(self, txn: Txn, namespace: str, *, most: int, more: int) -> int:
        """Guard: with so many requests more, at most `most` of the namespace wait for their machine."""
        return txn.expect_below(names.waiting(namespace), most - more + 1)

    def expect_records(self, txn: Txn, namespace: str, *, most: int, more: int) -> int:
        """Guard: with so many records more, the namespace has at most `most`."""
        return txn.expect_since_below(public.index(namespace), self._kept_since(), most - more + 1)

    def _hour_ago(self) -> float:
        return self._db.now() - HOUR_S

    def _kept_since(self) -> float:
        """A record of what ended before this has expired."""
        return self._db.now() - self._db.timings.keep_s


def has_machine(record: Record | None) -> bool:
    """Whether the record has a machine, or one may be launched for it at any moment. Pure."""
    return record is not None and (record.intent is not None or record.phase in LIVE)


def launch_name(tag: str, generation: int) -> str:
    """The name under which a launch is counted."""
    return f"{tag}#{generation}"
