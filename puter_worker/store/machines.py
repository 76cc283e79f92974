"""Living machines: which are observed, still to be labelled, or to be opened to further addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from puter_client.contract.key import PuterKey
from puter_worker.store import names
from puter_worker.store.base import KEEP_S, Base, encode
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


@dataclass(frozen=True, slots=True)
class Admission:
    """Addresses that shall reach a machine which was there, or on its way, already.

    Attributes:
        key: whose.
        cidrs: of ssh's callers; none: only the group is seen to.
    """

    key: PuterKey
    cidrs: tuple[str, ...]


class Machines(Base):
    """What a fleet's leader does with living machines."""

    async def live_keys(self, fleet: str) -> list[PuterKey]:
        """Keys of the fleet whose machine is alive as far as is known."""
        return [PuterKey.parse(raw.decode()) for raw in await self.redis.zrange(names.live(fleet), 0, -1)]

    async def live_count(self, fleet: str) -> int:
        """How many machines of the fleet live."""
        return int(await self.redis.zcard(names.live(fleet)))

    async def newest_live(self, fleet: str) -> float | None:
        """Since when the latest living machine of the fleet lives; None if none does."""
        newest = await self.redis.zrange(names.live(fleet), 0, 0, desc=True, withscores=True)
        return newest[0][1] if newest else None

    async def claim_labels(self, fleet: str, most: int, until: float) -> list[Label]:
        """Labels to write that nobody is at, claimed until a time; one is taken off by `put_labelled` alone."""
        raws = await self.scripts.claim(keys=[names.labels(fleet)], args=[self.now(), until, most])
        claimed: list[Label] = []
        for raw in raws:
            key, _, generation = raw.decode().rpartition("#")
            claimed.append(Label(PuterKey.parse(key), int(generation)))
        return claimed

    def put_labelled(self, txn: Txn, fleet: str, label: Label) -> None:
        """The label is written, or no longer wanted."""
        txn.do("ZREM", names.labels(fleet), f"{label.key}#{label.generation}")

    def put_label_off(self, txn: Txn, fleet: str, label: Label, at: float) -> None:
        """Try the label again at a time."""
        txn.do("ZADD", names.labels(fleet), "XX", at, f"{label.key}#{label.generation}")

    async def claim_admissions(self, most: int, until: float) -> list[Admission]:
        """Admissions that nobody is at, claimed until a time."""
        raws = await self.scripts.claim(keys=[names.ADMISSIONS], args=[self.now(), until, most])
        claimed: list[Admission] = []
        for raw in raws:
            namespace, tag, cidrs = msgspec.json.decode(raw, type=tuple[str, str, tuple[str, ...]])
            claimed.append(Admission(PuterKey(namespace, tag), cidrs))
        return claimed

    async def drop_admission(self, admission: Admission) -> None:
        """The admission is made, or no longer wanted."""
        key = admission.key
        await self.redis.zrem(names.ADMISSIONS, encode([key.namespace, key.tag, list(admission.cidrs)]))

    def put_admission(self, txn: Txn, key: PuterKey, cidrs: Sequence[str], now: float) -> None:
        """Somebody at these addresses shall reach the key's machine, which is there or on its way already."""
        txn.do("ZADD", names.ADMISSIONS, now, encode([key.namespace, key.tag, list(cidrs)]))
        txn.do("EXPIRE", names.ADMISSIONS, KEEP_S)
