"""observe: writes what EC2 shows of living machines into their records. A stage of the target's leader.

May run twice, and on stale data: a record only moves forward, and is written only with its revision as a guard. The
record of an instance that EC2 does not show stays as it is, until EC2 has not shown it for an hour. A leader uses the
records as it last read or wrote them: if one has changed since then, its write fails and the record is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf

from puter_client.contract.key import PuterKey
from puter_client.contract.order import OrderKind
from puter_client.contract.phase import LIVE, Phase
from puter_client.contract.record import Record
from puter_worker.stages.confirm import Confirm
from puter_worker.stages.stage import Stage, until_due
from puter_worker.store import wakeups
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import Versioned
from puter_worker.target import Target
from puter_worker.timings import Timings

# Reading this many machines every 2 s takes 2.5 of the 20 calls a second that EC2 allows. More machines than this are
# read less often.
AWAITED = 1_000
# Some 2 ms of Redis's time.
RENEW_AT_ONCE = 500


class Observe(Stage):
    """Reads the machines of one target in EC2: often those that start or were told to stop, now and then all."""

    name = "observe"
    least_gap_s = 0.1

    def __init__(
        self, store: Store, target: Target, timings: Timings, *, quiet_s: float, is_end_awaited: Callable[[], bool]
    ) -> None:
        """`quiet_s`: how often to read running machines while no key waits for one of them to end."""
        super().__init__()
        self.topics = frozenset({wakeups.machines(str(target)), wakeups.launches(str(target))})
        self._store = store
        self._clock = store.db.clock
        self._target = target
        self._timings = timings
        self._quiet_s = quiet_s
        self._is_end_awaited = is_end_awaited
        self._confirm = Confirm(store, target, timings)
        self._swept_at = -inf
        self._looked_at = -inf
        self._ends_looked_at = -inf
        self._nobody_waited_at = -inf
        self._known: dict[PuterKey, tuple[float, Versioned[Record]]] = {}
        self._ending: dict[PuterKey, float] = {}  # told to stop → until when it is looked at often

    def expect_ends(self, keys: Iterable[PuterKey]) -> None:
        """Look at these machines often for a while: they were told to stop just now, and their owners wait for that."""
        self._ending |= dict.fromkeys(keys, self._clock.monotonic() + self._timings.ending_s)
        self.wake()

    def _know_ending(self, record: Record) -> None:
        """Expect the end of a machine of which the record says that it was told to stop: an earlier leader may have."""
        order = record.order
        if order is None or order.kind is not OrderKind.STOP or order.sent_at is None:
            return
        left_s = self._timings.ending_s - self._clock.age(order.sent_at)
        if left_s > 0:
            self._ending.setdefault(record.key, self._clock.monotonic() + left_s)

    async def run_once(self) -> float:
        """Read the machines that are due."""
        now, name = self._clock.monotonic(), str(self._target)
        if now >= await self._sweep_due(now):
            await self._sweep()
            self._swept_at = self._looked_at = now
        elif now >= self._looked_at + self._timings.starting_s:
            changing = {*await self._store.machines.starting(name), *self._ending_due(now)}
            if changing:
                await self.look_at(list(changing))
                self._looked_at = now
        starting = await self._store.machines.starting(name)
        if starting and self._looked_at == now:
            await self._let_started(starting)
        due = await self._sweep_due(now)
        if starting:
            due = min(due, self._looked_at + self._timings.starting_s)
        if self._ending:
            due = min(due, max(self._looked_at + self._timings.starting_s, self._ends_due_at()))
        return until_due(due, self._clock.monotonic(), at_most=self._timings.sweep_s)

    def _ending_due(self, now: float) -> Iterable[PuterKey]:
        """Those that were told to stop, if it is time to look at them."""
        self._ending = {key: until for key, until in self._ending.items() if now < until}
        if now < self._ends_due_at():
            return ()
        self._ends_looked_at = now
        return self._ending

    def _ends_due_at(self) -> float:
        """When those that were told to stop are looked at next: many are looked at less often."""
        return self._ends_looked_at + self._timings.starting_s * max(1.0, len(self._ending) / AWAITED)

    async def _sweep(self) -> None:
        live = await self._store.machines.live(str(self._target))
        await self.look_at(live)
        self._known = {key: self._known[key] for key in live if key in self._known}
        overdue = sum(one.value.overdue for _, one in self._known.values())
        self._target.metrics.overdue(str(self._target), overdue)

    async def look_at(self, keys: Sequence[PuterKey]) -> None:
        """Read the machines of these keys in EC2, and update their records."""
        try:
            await self._look_at(keys)
        except BaseException:
            self._known.clear()  # some may have been written
            raise

    async def _look_at(self, keys: Sequence[PuterKey]) -> None:
        living = [one for one in await self._records(keys) if one.value.phase in LIVE]
        # Instances are read by id: EC2 drops the tags of an ended instance before it drops the instance.
        asked_at = self._target.absences.asked()
        shown = await self._target.describe([one.value.instance_id for one in living if one.value.instance_id])
        if living:
            # As long as a machine is alive, its target must not expire.
            txn = Txn()
            self._store.targets.put(txn, str(self._target), self._store.now())
            self._store.machines.renew(txn, str(self._target), {one.value.namespace for one in living})
            await self._store.commit(txn)
        looked_at = await self._confirm.carry_over(living, shown, asked_at=asked_at)
        # The record of a key whose machine has ended is read again next time: it may have the next machine by then.
        after = {one.value.key: one for one in looked_at if one.value.phase in LIVE}
        for key in set(keys) - after.keys():
            self._ending.pop(key, None)
        for key in {one.value.key for one in living} - after.keys():
            self._known.pop(key, None)
        for one in after.values():
            self._know(one)
            self._know_ending(one.value)

    def _know(self, one: Versioned[Record]) -> None:
        """Use this record for `reread_s` from when it was read or written: not longer because nothing has changed."""
        known = self._known.get(one.value.key)
        if known is None or known[1].rev != one.rev:
            self._known[one.value.key] = (self._clock.monotonic() + self._timings.reread_s, one)

    async def _records(self, keys: Sequence[PuterKey]) -> list[Versioned[Record]]:
        """The records of these keys, as they were last read or written."""
        now = self._clock.monotonic()
        known = {key: one for key, (until, one) in self._known.items() if now < until}
        unknown = [key for key in keys if key not in known]
        for key in unknown:
            self._known.pop(key, None)
        read = dict(zip(unknown, await self._store.records.read(unknown), strict=True))
        found = [known.get(key) or read[key].found() for key in keys]
        await self._renew([one for key in unknown if (one := read[key].found()) is not None])
        return [one for one in found if one is not None]

    async def _renew(self, read: Sequence[Versioned[Record]]) -> None:
        """As long as a machine is alive, its record must not expire, however seldom anything changes."""
        living = [one.value for one in read if one.value.phase in LIVE]
        for start in range(0, len(living), RENEW_AT_ONCE):
            txn = Txn()
            for record in living[start : start + RENEW_AT_ONCE]:
                self._store.records.renew(txn, record)
            await self._store.commit(txn)

    async def _let_started(self, starting: Sequence[PuterKey]) -> None:
        """Read machines less often once they run and have an address, or (in a private subnet) will get none."""
        now, records = self._store.now(), await self._records(starting)
        started = [one for one in records if has_started(one.value, now, address_s=self._timings.address_s)]

        def put(txn: Txn, one: Versioned[Record]) -> None:
            self._store.records.expect(txn, one.value.key, one)
            self._store.machines.put_started(txn, str(self._target), one.value.key)

        written = {one.value.key for one in await self._store.commit_each(started, put)}
        for one in started:
            if one.value.key not in written:
                self._known.pop(one.value.key, None)  # it has changed since

    async def _sweep_due(self, now: float) -> float:
        """When all machines are read next: sooner while keys wait for one of them to end."""
        if not self._is_end_awaited():
            self._nobody_waited_at = now
            return self._swept_at + self._quiet_s
        many = await self._store.machines.live_count(str(self._target))
        often_s = min(self._quiet_s, self._timings.awaited_s * max(1.0, many / AWAITED))
        return min(
            self._swept_at + self._quiet_s,
            max(self._swept_at + often_s, self._nobody_waited_at + self._timings.awaited_s),
        )


def has_started(record: Record, now: float, *, address_s: float) -> bool:
    """Whether a machine's start is complete: it runs, and has an address or will get none. Pure."""
    if record.phase is not Phase.RUNNING:
        return False
    return record.public_ip is not None or now - (record.running_at or now) > address_s
