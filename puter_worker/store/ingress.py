"""Ingress rules that are not added yet: they let further addresses reach a machine that exists already."""

from __future__ import annotations

import msgspec

from puter_client.contract.key import PuterKey
from puter_worker.store import names, wakeups
from puter_worker.store.database import Database
from puter_worker.store.due_items import DueItems
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import decode, encode


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
    """The rules of all targets that are not added yet."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.items = DueItems(db, names.INGRESS, topic=wakeups.INGRESS, longest_s=db.timings.longest_put_off_s)

    def add(self, txn: Txn, rule: IngressRule, now: float) -> None:
        """Note a rule for a machine that exists, or is about to be launched."""
        self.items.add(txn, encode(rule), now)

    def reschedule(self, txn: Txn, rule: IngressRule, at: float) -> None:
        """Make the rule due again from this time on."""
        self.items.reschedule(txn, encode(rule), at)

    def remove(self, txn: Txn, rule: IngressRule) -> None:
        """Remove a rule that is added in EC2 or no longer needed."""
        self.items.remove(txn, encode(rule))

    async def claim(self, most: int, until: float) -> list[IngressRule]:
        """Claim up to `most` due rules until that time: no other worker gets them before."""
        found = [decode(raw, IngressRule, names.INGRESS) for raw in await self.items.claim(most, until)]
        return [rule for rule in found if rule is not None]
