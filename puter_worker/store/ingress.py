"""Ingress rules that are not added yet: they let further addresses reach a machine that exists already."""

from __future__ import annotations

import random

import msgspec

from puter_client.contract.key import PuterKey
from puter_worker.store import names, wakeups
from puter_worker.store.database import Database
from puter_worker.store.due_items import DueItems
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import decode, encode
from puter_worker.turns import take_turns


class IngressRule(msgspec.Struct, frozen=True, array_like=True):
    """Addresses that are to reach a machine that existed, or was about to be launched, when they were requested.

    Attributes:
        namespace: the namespace of the machine's key.
        tag: the tag of the machine's key.
        cidrs: the addresses that may use ssh; if there are none, only the machine's security group is checked.
        vpc_id: the machine's VPC, if it was just read.
        group_ids: the machine's security groups, if they were just read; None: they are read from EC2.
    """

    namespace: str
    tag: str
    cidrs: tuple[str, ...]
    vpc_id: str | None = None
    group_ids: tuple[str, ...] | None = None

    @property
    def key(self) -> PuterKey:
        """The machine's key."""
        return PuterKey(self.namespace, self.tag)


class IngressRules:
    """The rules of all targets that are not added yet. Each namespace has its own: each rule costs calls to EC2."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of(self, namespace: str) -> DueItems:
        """One namespace's rules."""
        longest_s = self._db.timings.longest_put_off_s
        return DueItems(self._db, names.ingress(namespace), topic=wakeups.INGRESS, longest_s=longest_s)

    def add(self, txn: Txn, rule: IngressRule, now: float) -> None:
        """Note a rule for a machine that exists, or is about to be launched."""
        self.of(rule.namespace).add(txn, encode(rule), now)
        txn.once("SADD", names.INGRESS, rule.namespace)
        txn.keep(names.INGRESS, self._db.timings.keep_s)

    def reschedule(self, txn: Txn, rule: IngressRule, at: float) -> None:
        """Make the rule due again from this time on."""
        self.of(rule.namespace).reschedule(txn, encode(rule), at)

    def remove(self, txn: Txn, rule: IngressRule) -> None:
        """Remove a rule that is added in EC2 or no longer needed."""
        self.of(rule.namespace).remove(txn, encode(rule))

    async def claim(self, most: int, until: float) -> list[IngressRule]:
        """Claim up to `most` due rules until that time: no other worker gets them before.

        Namespaces share them, and take turns in their order.
        """
        now = self._db.now()
        due = [namespace for namespace, at in (await self._namespaces()).items() if at <= now]
        random.shuffle(due)  # if there are more than can be claimed, it is not always the same ones that wait
        raws: list[bytes] = []
        for left, namespace in zip(range(len(due), 0, -1), due, strict=True):
            raws += await self.of(namespace).claim((most - len(raws)) // left or 1, until)
            if len(raws) >= most:
                break
        found = [decode(raw, IngressRule, names.INGRESS) for raw in raws]
        return take_turns((rule for rule in found if rule is not None), lambda rule: rule.namespace)

    async def next_due(self) -> float | None:
        """When the earliest rule is due; None if there is none."""
        return min((await self._namespaces()).values(), default=None)

    async def _namespaces(self) -> dict[str, float]:
        """Namespaces with rules, each with the time at which its earliest one is due."""
        found = [raw.decode() for raw in await self._db.redis.smembers(names.INGRESS)]
        if not found:
            return {}
        async with self._db.redis.pipeline(transaction=False) as pipe:
            for namespace in found:
                pipe.zrange(names.ingress(namespace), 0, 0, withscores=True)
            firsts = await pipe.execute()
        due: dict[str, float] = {}
        for namespace, first in zip(found, firsts, strict=True):
            at = self.of(namespace).earliest(first)
            if at is None:
                await self._db.scripts.leave(names.INGRESS, names.ingress(namespace), namespace)
            else:
                due[namespace] = at
        return due
