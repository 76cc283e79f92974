"""orders: writes owners' orders as tags that agents read, and reads on consoles that they have them.

A stage of the target's leader. May run twice: the same tags are written again, and agents take an order once. It is
killed before a record says that its order was sent: the tags are written again. Machines with the same order share a
call; EC2 refuses a call as a whole if it does not know one of them, so a refused call is sent again in halves.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import structlog

from puter_client.contract.key import PuterKey
from puter_client.contract.order import Order, OrderKind
from puter_client.contract.phase import LIVE
from puter_client.contract.record import EventKind, Record
from puter_worker.ec2 import instances as ec2
from puter_worker.ec2.tags import EXPIRES_AT, ORDER, expiry
from puter_worker.errors import Handling, StageError, reason_after
from puter_worker.rates import CREATE_TAGS
from puter_worker.stages.stage import Stage, until_due
from puter_worker.store import wakeups
from puter_worker.store.generation import Generation
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import Versioned
from puter_worker.target import Target
from puter_worker.timings import Timings

_log = structlog.get_logger("puter.orders")
# "You can tag up to 1000 resources at a time" (API reference of CreateTags).
AT_ONCE = 1_000
# Orders that are to be written do not wait for the consoles of a thousand others: those stay claimed until later.
CONFIRM_AT_ONCE = 40
READ_AT_ONCE = 8
_CONFIRMED = re.compile(r"puter: order ([0-9a-f]{16}) (?:(stop)|expires-at (\S+))\s*$", re.MULTILINE)

Ordered = tuple[Generation, Versioned[Record], Order]


class CarryOut(Stage):
    """Carries out the orders for one target's machines."""

    name = "orders"
    least_gap_s = 0.1

    def __init__(
        self, store: Store, target: Target, timings: Timings, *, expect_ends: Callable[[Iterable[PuterKey]], None]
    ) -> None:
        """`expect_ends`: called with the keys of machines that were told to stop."""
        super().__init__()
        self.topics = frozenset({wakeups.orders(str(target))})
        self._store = store
        self._target = target
        self._timings = timings
        self._expect_ends = expect_ends

    async def run_once(self) -> float:
        """Write the tags of orders that are due, and read the consoles of those that are to be confirmed."""
        until = self._store.now() + self._timings.order_claim_s
        claimed = await self._store.orders.claim(str(self._target), AT_ONCE, until)
        if not claimed:
            due = await self._store.orders.of(str(self._target)).next_due()
            return until_due(due, self._store.now(), at_most=self._timings.sweep_s)
        stored = await self._store.records.read([one.key for one in claimed])
        to_send: dict[tuple[OrderKind, float | None], list[Ordered]] = defaultdict(list)
        to_confirm: list[Ordered] = []
        unwanted: list[tuple[Generation, Versioned[Record | None]]] = []
        for machine, one in zip(claimed, stored, strict=True):
            current = one.found()
            order = current.value.order if current else None
            if current is None or order is None or not _is_wanted(current.value, machine):
                unwanted.append((machine, one))
            elif order.sent_at is None:
                to_send[order.kind, order.expires_at].append((machine, current, order))
            else:
                to_confirm.append((machine, current, order))
        await self._store.commit_each(unwanted, self._put_unwanted)
        for alike in to_send.values():
            await self._send(alike)
        await self._confirm(to_confirm[:CONFIRM_AT_ONCE])
        return 0.0

    # -- tags -----------------------------------------------------------------------------------------------------

    async def _send(self, alike: Sequence[Ordered]) -> None:
        """Write the tags of machines with the same order, with one call if EC2 takes it."""
        tags = tags_of(alike[0][2])
        error = await self._write([one.value.instance_id or "" for _, one, _ in alike], tags)
        if error is not None and error.handling in {Handling.FAIL, Handling.JUST_MADE} and len(alike) > 1:
            half = len(alike) // 2
            await self._send(alike[:half])
            await self._send(alike[half:])
            return
        await self._store.commit_each(alike, lambda txn, one: self._put_sent(txn, one, error))
        if error is None and alike[0][2].kind is OrderKind.STOP:
            self._expect_ends([machine.key for machine, _, _ in alike])
        # A record that has changed meanwhile stays claimed, and its tags are written again.

    async def _write(self, ids: Sequence[str], tags: Mapping[str, str]) -> StageError | None:
        until = self._store.now() + self._timings.order_claim_s
        reservation = await self._target.pacer.reserve_one(CREATE_TAGS, until=until)
        if reservation is None:
            return StageError("waiting for EC2's API rate limit", handling=Handling.AGAIN)
        try:
            async with reservation:
                await ec2.create_tags(self._target.caller, ids, tags)
        except StageError as error:
            return error
        return None

    def _put_sent(self, txn: Txn, one: Ordered, error: StageError | None) -> None:
        machine, current, order = one
        items, now = self._store.orders.of(str(self._target)), self._store.now()
        if error is None:
            sent = msgspec.structs.replace(order, sent_at=now, problem=None)
            record = current.value.replace(order=sent)
            if order.kind is OrderKind.EXTEND:
                record = record.replace(expires_at=order.expires_at, overdue=False)
            self._store.records.put(
                txn, current, record, event=EventKind.ORDER_SENT, detail={"order": order.kind.value}
            )
            items.add(txn, str(machine), now + self._timings.order_confirm_s)
            return
        final = error.handling is Handling.FAIL
        problem = f"{order.kind.value}: {reason_after(error)}"
        if order.problem != problem:
            told = msgspec.structs.replace(order, problem=problem)
            self._store.records.put(txn, current, current.value.replace(order=told))
        else:
            self._store.records.expect(txn, machine.key, current)
        items.add(txn, str(machine), now + (self._timings.order_refused_s if final else self._timings.order_again_s))

    # -- confirmations --------------------------------------------------------------------------------------------

    async def _confirm(self, sent: Sequence[Ordered]) -> None:
        at_once = asyncio.Semaphore(READ_AT_ONCE)

        async def read(one: Ordered) -> tuple[Ordered, bool]:
            async with at_once:
                return one, await self._is_confirmed(one[1].value, one[2])

        done = await asyncio.gather(*map(read, sent))
        await self._store.commit_each(done, self._put_confirmed)

    async def _is_confirmed(self, record: Record, order: Order) -> bool:
        try:
            console = await ec2.console_output(self._target.caller, record.instance_id or "", latest=True)
        except StageError:
            return False
        return is_confirmed(console, record.launched_by, order)

    def _put_confirmed(self, txn: Txn, one: tuple[Ordered, bool]) -> None:
        (machine, current, order), confirmed = one
        items, now = self._store.orders.of(str(self._target)), self._store.now()
        late = now - (order.sent_at or now) > self._timings.order_confirm_within_s
        if confirmed:
            told = msgspec.structs.replace(order, confirmed_at=now)
            self._store.records.put(
                txn,
                current,
                current.value.replace(order=told),
                event=EventKind.ORDER_CONFIRMED,
                detail={"order": order.kind.value},
            )
        else:
            self._store.records.expect(txn, machine.key, current)
        if confirmed or late:
            items.remove(txn, str(machine))
        else:
            items.add(txn, str(machine), now + self._timings.order_confirm_s)

    def _put_unwanted(self, txn: Txn, one: tuple[Generation, Versioned[Record | None]]) -> None:
        machine, stored = one
        self._store.records.expect(txn, machine.key, stored)
        self._store.orders.of(str(self._target)).remove(txn, str(machine))


def tags_of(order: Order) -> dict[str, str]:
    """The tags that carry an order. Pure."""
    if order.kind is OrderKind.STOP:
        return {ORDER: order.kind.value}
    return {EXPIRES_AT: expiry(order.expires_at)}


def is_confirmed(console: str, launched_by: str | None, order: Order) -> bool:
    """Whether the agent says on its console that it has the order. Pure; the console is not trusted."""
    for found in _CONFIRMED.finditer(console):
        nonce, stop, expires_at = found.groups()
        if nonce == launched_by and (
            stop is not None if order.kind is OrderKind.STOP else expires_at == expiry(order.expires_at)
        ):
            return True
    return False


def _is_wanted(record: Record, machine: Generation) -> bool:
    order = record.order
    if order is None or order.confirmed_at is not None:
        return False
    return record.generation == machine.generation and record.phase in LIVE
