"""Living machines: which are observed, still to be labelled, or to be opened to further addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from puter_client.contract.key import PuterKey
from puter_client.store import names as public
from puter_worker.store import names
from puter_worker.store.base import KEEP_S, Base, decode, encode
from puter_worker.store.txn import Txn


@dataclass(frozen=True, slots=True)
class Label:
    """An instance whose own tags are still to be written.

    Attributes:
        key: whose.
        generation: of the instance.
    """

    key: PuterKey
    generation: int


class Admission(msgspec.Struct, frozen=True, array_like=True):
    """Addresses that shall reach a machine which was there, or on its way, already.

    Attributes:
        namespace: of its key.
        tag: of its key.
        cidrs: of ssh's callers; none: only the group is seen to.
        vpc_id: its network, if it was just looked at.
        group_ids: its security groups, if it was just looked at; None: EC2 is asked.
    """

    namespace: str
    tag: str
    cidrs: tuple[str, ...]
    vpc_id: str | None = None
    group_ids: tuple[str, ...] | None = None

    @property
    def key(self) -> PuterKey:
        """Whose machine it is."""
        return PuterKey(self.namespace, self.tag)


class Machines(Base):
    """What workers do with living machines."""

    async def live_keys(self, target: str) -> list[PuterKey]:
        """Keys of the target whose machine is alive as far as is known."""
        return [PuterKey.parse(raw.decode()) for raw in await self.redis.zrange(names.live(target), 0, -1)]

    async def live_count(self, target: str) -> int:
        """How many machines of the target live."""
        return int(await self.redis.zcard(names.live(target)))

    def renew_sets(self, txn: Txn, target: str, namespaces: set[str]) -> None:
        """As long as a machine lives, the sets that it is in live."""
        for name in (names.live(target), names.starting(target), *map(public.index, namespaces)):
            txn.keep(name, KEEP_S)

    async def starting_keys(self, target: str) -> list[PuterKey]:
        """Keys of the target whose machine is launched but does not run yet, or has no public address yet."""
        return [PuterKey.parse(raw.decode()) for raw in await self.redis.smembers(names.starting(target))]

    def put_started(self, txn: Txn, target: str, key: PuterKey) -> None:
        """The key's machine runs, with whatever addresses it has."""
        txn.do("SREM", names.starting(target), str(key))

    async def labels_due(self, target: str) -> int:
        """How many labels are to be written that nobody is at."""
        return int(await self.redis.zcount(names.labels(target), "-inf", self.now()))

    async def claim_labels(self, target: str, most: int, until: float) -> list[Label]:
        """Labels to write that nobody is at, claimed until a time; one is taken off by `put_labelled` alone."""
        if not most:
            return []
        raws = await self.scripts.claim(keys=[names.labels(target)], args=[self.now(), until, most])
        claimed: list[Label] = []
        for raw in raws:
            key, _, generation = raw.decode().rpartition("#")
            claimed.append(Label(PuterKey.parse(key), int(generation)))
        return claimed

    def put_labelled(self, txn: Txn, target: str, label: Label) -> None:
        """The label is written, or no longer wanted."""
        txn.do("ZREM", names.labels(target), f"{label.key}#{label.generation}")

    def put_label_off(self, txn: Txn, target: str, label: Label, at: float) -> None:
        """Try the label again at a time."""
        txn.do("ZADD", names.labels(target), "XX", at, f"{label.key}#{label.generation}")

    async def claim_admissions(self, most: int, until: float) -> list[Admission]:
        """Admissions that nobody is at, claimed until a time."""
        raws = await self.scripts.claim(keys=[names.ADMISSIONS], args=[self.now(), until, most])
        found = [decode(raw, Admission, names.ADMISSIONS) for raw in raws]
        return [admission for admission in found if admission is not None]

    async def put_admissions_off(self, admissions: Sequence[Admission], at: float) -> None:
        """Leave claimed admissions to another worker, from a time on."""
        await self.redis.zadd(names.ADMISSIONS, {encode(admission): at for admission in admissions}, xx=True)

    async def drop_admission(self, admission: Admission) -> None:
        """The admission is made, or no longer wanted."""
        await self.redis.zrem(names.ADMISSIONS, encode(admission))

    def put_admission(self, txn: Txn, admission: Admission, now: float) -> None:
        """Somebody shall reach a machine that is there or on its way already."""
        txn.do("ZADD", names.ADMISSIONS, now, encode(admission))
        txn.keep(names.ADMISSIONS, KEEP_S)
