"""resolve: looks up in EC2, many keys with one call, whether machines exist. A stage of the target's leader.

May run twice: one transaction decides a new key and removes it from the look-ups, with its record's revision as a
guard. If the worker is killed before it, the key is due again when its claim ends. A key with a living machine is
removed when no request is parked any more; a request that is parked during a look waits for the next one, because it
shall rest on what EC2 showed after it was made. An empty look-up means unknown, not absent: the record, its intent,
the intent's tag and its token protect against a second launch, never this look-up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import structlog

from puter_client.contract import transitions
from puter_client.contract.batch import BatchRow
from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import PuterKey
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import LIVE, ON_ITS_WAY, Phase
from puter_client.contract.record import EventKind, Record
from puter_client.contract.request import UpRequest
from puter_client.contract.spec import Spec
from puter_worker.ec2.instances import TAGS_A_CALL, Instance
from puter_worker.ec2.tags import is_labelled
from puter_worker.errors import StageError, reason_after
from puter_worker.stages import ensure
from puter_worker.stages.batch_window import BatchWindow
from puter_worker.stages.confirm import Confirm, put_adopted
from puter_worker.stages.decide import adopted
from puter_worker.stages.decode import decode_request, read_parked
from puter_worker.stages.draft import decide_parked
from puter_worker.stages.facts import ALIVE, DEAD, choose, generation_of, may_be_of
from puter_worker.stages.forgotten import Forgotten
from puter_worker.stages.stage import Stage
from puter_worker.store import wakeups
from puter_worker.store.ingress import IngressRule
from puter_worker.store.requests import TAKE_REQUESTS
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import Versioned
from puter_worker.target import Target, TargetId
from puter_worker.timings import Timings

_log = structlog.get_logger("puter.resolve")
# As many keys as two calls take; keys that come meanwhile wait until these are done.
AT_ONCE = 2 * TAGS_A_CALL
DECIDE_AT_ONCE = 20


class Resolve(Stage):
    """Looks up the keys of one target; namespaces do not wait for each other's look-ups."""

    name = "resolve"

    def __init__(self, store: Store, target: Target, forgotten: Forgotten, timings: Timings) -> None:
        super().__init__()
        self.topics = frozenset({wakeups.look_ups(str(target))})
        self._store = store
        self._clock = store.db.clock
        self._target = target
        self._forgotten = forgotten
        self._timings = timings
        self._window = BatchWindow(timings.look_up_idle_s, timings.look_up_longest_s, TAGS_A_CALL)
        self._confirm = Confirm(store, target, timings)
        self._at_work: dict[str, asyncio.Task[None]] = {}
        self._not_before: dict[str, float] = {}

    async def run_once(self) -> float:
        """Begin look-ups for namespaces without a running one. Raises the error of a look-up that has failed."""
        for namespace, task in list(self._at_work.items()):
            if task.done():
                del self._at_work[namespace]
                task.result()
        now, pause_s = self._store.now(), self._timings.sweep_s
        for namespace, due in (await self._store.look_ups.namespaces(str(self._target))).items():
            if namespace in self._at_work:
                continue  # the end of its look-up wakes this stage
            wait_s = max(due - now, self._not_before.get(namespace, 0.0) - self._clock.monotonic())
            if wait_s <= 0:
                wait_s = await self._begin(namespace, now)
            pause_s = min(pause_s, wait_s)
        self._not_before = {one: at for one, at in self._not_before.items() if at > self._clock.monotonic()}
        return pause_s

    async def _begin(self, namespace: str, now: float) -> float:
        """Look up a namespace's due keys, unless they wait for more; returns the seconds until the next look."""
        since = await self._store.look_ups.due(str(self._target), namespace, now, AT_ONCE)
        keys = [PuterKey(namespace, tag) for tag in since]
        full = len(keys) // TAGS_A_CALL * TAGS_A_CALL
        if full < len(keys):
            wait_s = self._window.wait_s(list(since.values())[full:], now)
            if wait_s > 0 and not await self._none_is_missing(keys):
                keys = keys[:full]
                if not keys:
                    return wait_s
            else:
                # Each call costs a token, however few keys it is for: calls that are not full keep a distance.
                self._not_before[namespace] = self._clock.monotonic() + self._timings.look_up_apart_s
        if not keys:
            return self._timings.sweep_s
        task = self._at_work[namespace] = asyncio.create_task(self.look_up(namespace, keys))
        task.add_done_callback(lambda _: self.wake())
        return self._timings.sweep_s

    async def _none_is_missing(self, keys: Sequence[PuterKey]) -> bool:
        # The last key alone usually shows that more keys are to come.
        records = self._store.records
        latest = [one.value for one in await records.read(keys[-1:])]
        if not all_there(latest, among=len(keys)):
            return False
        return all_there([one.value for one in await records.read(keys)], among=len(keys))

    async def drain(self) -> None:
        """Wait until the claimed keys are looked up."""
        if self._at_work:
            await asyncio.wait(self._at_work.values())

    async def look_up(self, namespace: str, keys: Sequence[PuterKey]) -> None:
        """Look up these keys of a namespace, which are due, and decide about each."""
        until = self._store.now() + self._timings.look_up_claim_s
        items = self._store.look_ups.of(str(self._target), namespace)
        await items.claim_these([key.tag for key in keys], until)
        stored = await self._store.records.read(keys)
        found = [current for one in stored if (current := one.found()) is not None]
        # A key may have been cancelled, and requested for another target: a look-up here must not launch it here.
        ours = [one for one in found if one.value.target == str(self._target)]
        new = [
            one for one in ours if one.value.phase in (Phase.RESOLVING, Phase.LAUNCHING) and one.value.intent is None
        ]
        live = [one for one in ours if one.value.phase in LIVE]
        moved_on = set(keys) - {one.value.key for one in (*new, *live)}
        for key, as_read in zip(keys, stored, strict=True):
            if key in moved_on:
                if as_read.value is None or as_read.value.phase not in LIVE:
                    await decide_parked(self._store, key, self._target.rules)
                txn = Txn()
                self._store.records.expect(txn, key, as_read)
                self._store.look_ups.remove(txn, str(self._target), key)
                await self._store.commit(txn)
        await asyncio.gather(self._resolve_new(namespace, new), self._confirm_live(live))

    async def _resolve_new(self, namespace: str, new: Sequence[Versioned[Record]]) -> None:
        if not new:
            return
        unsure = await self._forgotten.others(str(self._target))
        # A key that was looked up, and still waits for the same other targets, needs no further call to EC2.
        again = [one for one in new if unsure and one.value.reason == _first_checked(unsure)]
        await self._store.commit_each(again, self._put_next_look)
        new = [one for one in new if one not in again]
        if not new:
            return
        try:
            found = await self._target.look_up(namespace, [one.value.tag for one in new])
        except StageError as error:
            for one in new:
                await ensure.refused(self._store, one, error)
            return
        specs = await self._store.records.specs([one.value.key for one in new])
        look_ups = [
            (one, spec, chosen_for(one.value, found[one.value.tag])) for one, spec in zip(new, specs, strict=True)
        ]
        look_ups.sort(key=lambda look_up: look_up[0].value.created_at)  # so they wait for their launch in their order
        users = await self._target.ssh_users(one for _, _, one in look_ups if one is not None and one.state not in DEAD)
        unsure = await self._forgotten.others(str(self._target))
        # A key that has moved on meanwhile is left as it is.
        await self._store.commit_each(
            look_ups, lambda txn, look_up: self._decide(txn, *look_up, users=users, unsure=unsure)
        )

    def _put_next_look(self, txn: Txn, one: Versioned[Record]) -> None:
        self._store.records.expect(txn, one.value.key, one)
        self._look_up_later(txn, one.value.key)

    def _look_up_later(self, txn: Txn, key: PuterKey) -> None:
        self._store.look_ups.add(txn, str(self._target), key, self._store.now() + self._timings.look_up_again_s)

    def _decide(
        self,
        txn: Txn,
        current: Versioned[Record],
        spec: Spec | None,
        instance: Instance | None,
        *,
        users: Mapping[str, str],
        unsure: set[str],
    ) -> None:
        """Adopt the machine if it exists, or put the key into the launch queue.

        `users`: users for ssh, by instance id; `unsure`: other targets in which it may exist without Redis knowing it.
        """
        record = current.value
        if instance is not None and instance.state not in DEAD:
            if instance.is_unassigned:
                self._look_again(txn, current, _may_be_its_machine(instance))
                return
            if self._is_stale_view(record, instance):
                self._look_again(
                    txn, current, f"EC2 still shows {instance.instance_id}, which has ended; looking again"
                )
                return
            self._adopt(txn, current, spec, instance, users.get(instance.instance_id))
        elif unsure and record.generation == 1:  # what has ended here says nothing of other targets
            self._look_again(txn, current, _first_checked(unsure))
            return
        else:
            self._queue(txn, current, instance)
        self._store.look_ups.remove(txn, str(self._target), record.key)

    def _look_again(self, txn: Txn, current: Versioned[Record], reason: str) -> None:
        self._store.records.put(txn, current, transitions.waiting(current.value, reason, self._store.now()))
        self._look_up_later(txn, current.value.key)

    def _is_stale_view(self, record: Record, instance: Instance) -> bool:
        """Whether EC2 still shows an earlier generation as alive that has ended according to the record."""
        ended_at = record.attempts[-1].ended_at if record.attempts else None
        young = self._store.db.clock.age(max(record.created_at, ended_at or 0.0)) < self._timings.stale_view_s
        return generation_of(instance) < record.generation and instance.state in ALIVE and young

    def _adopt(
        self, txn: Txn, current: Versioned[Record], spec: Spec | None, instance: Instance, user: str | None
    ) -> None:
        record, now = current.value, self._store.now()
        of_it = record.replace(
            generation=generation_of(instance),
            labelled=is_labelled(instance.tags),
            ssh_user=(spec.ssh_user if spec else None) or user or record.ssh_user,
        )
        allowed = self._target.rules.of(record.namespace)
        adoption = adopted(of_it, spec, instance, self._target.target_id, now, self._timings, allowed=allowed)
        put_adopted(self._store, txn, current, adoption, tells=True)
        if adoption.record.phase in LIVE:
            cidrs = spec.ssh_from if spec else ()
            rule = IngressRule(record.namespace, record.tag, cidrs, instance.vpc_id, instance.group_ids)
            self._store.ingress.add(txn, rule, now)

    def _queue(self, txn: Txn, current: Versioned[Record], ended: Instance | None) -> None:
        record, now, target_id = current.value, self._store.now(), self._target.target_id
        # The tags of ended machines show how far generations have got, if Redis has forgotten it.
        following = max(record.generation, generation_of(ended) + 1) if ended else record.generation
        queued = transitions.queued_for_launch(
            record,
            str(self._target),
            now,
            generation=following,
            account_id=target_id.account,
            region=target_id.region,
        )
        self._store.records.put(txn, current, queued, event=EventKind.LAUNCH_AWAITED)
        self._store.launch_queue.add(txn, str(self._target), record.key, now)
        if following != record.generation and record.batch_id:
            row = BatchRow(outcome=Outcome.CREATED, generation=following, request_number=record.request_number)
            self._store.batches.put_row(txn, record.key, record.batch_id, row)

    async def _confirm_live(self, live: Sequence[Versioned[Record]]) -> None:
        """Update old records by the ids of their instances, and decide the requests that are parked for this."""
        ids = [one.value.instance_id for one in live if one.value.instance_id]
        parked = await self._store.requests.parked_counts([one.value.key for one in live])
        asked_at = self._target.absences.asked()
        try:
            shown = await self._target.describe(ids)
        except StageError as error:
            # The requests stay parked: nothing is launched because of an old record.
            _log.warning("records.unconfirmed", target=str(self._target), count=len(live), code=error.code)
            for one in live:
                await self._tell_parked(one, f"{one.value.instance_id}: {reason_after(error)}")
            return
        lost = await self._not_shown_for_long(live, shown)
        after = await self._confirm.carry_over(live, shown, asked_at=asked_at)
        # Whether these still exist is known after several looks: nobody is told before that they do.
        unsure = {one.value.key: one for one in after if one.value.key in lost and one.value.phase in LIVE}
        at_once = asyncio.Semaphore(DECIDE_AT_ONCE)

        async def decide_one(key: PuterKey) -> None:
            async with at_once:
                if key in unsure:
                    gone = unsure[key].value.instance_id
                    why = f"EC2 does not show {gone} any more; looking again before it counts as ended"
                    await self._tell_parked(unsure[key], why, after_s=self._timings.look_up_again_s)
                    return
                await decide_parked(self._store, key, self._target.rules, most=parked[key])
                if not await self._end_look(key):
                    await self._see_to_rest(key)

        await asyncio.gather(*(decide_one(one.value.key) for one in live))

    async def _end_look(self, key: PuterKey) -> bool:
        """Remove a key whose parked requests are decided; whether that is all, and nothing was parked meanwhile.

        Its machine may have ended during the look, and its workload be run again: then the key is here for its next
        generation, which needs a look of its own. Only the record, which must not change in between, tells.
        """
        current = await self._store.records.read_one(key)
        txn = Txn()
        self._store.records.expect(txn, key, current)
        self._store.requests.expect_none_parked(txn, key)
        if not self._is_on_its_way(current.value):
            self._store.look_ups.remove(txn, str(self._target), key)
        return not await self._store.commit(txn)

    def _is_on_its_way(self, record: Record | None) -> bool:
        """Whether a key waits for a look here because of a new launch."""
        return record is not None and record.phase in ON_ITS_WAY and record.target in (None, str(self._target))

    async def _see_to_rest(self, key: PuterKey) -> None:
        """More requests were parked during the look: they need another one, unless the machine has ended."""
        current = await self._store.records.read_one(key)
        txn = Txn()
        if current.value is not None and current.value.phase in LIVE:
            self._store.look_ups.add(txn, str(self._target), key, self._store.now())
        else:
            await decide_parked(self._store, key, self._target.rules)
            self._store.records.expect(txn, key, current)
            if not self._is_on_its_way(current.value):
                self._store.look_ups.remove(txn, str(self._target), key)
        await self._store.commit(txn)

    async def _not_shown_for_long(
        self, live: Sequence[Versioned[Record]], shown: Mapping[str, Instance]
    ) -> set[PuterKey]:
        """The keys of machines that EC2 has not shown for so long that it would have forgotten an ended one."""
        missing = [one.value for one in live if one.value.instance_id not in shown]
        observed_at = await self._store.records.observed_at([record.key for record in missing]) if missing else {}
        return {
            record.key
            for record in missing
            if (seen_at := max(record.observed_at or 0.0, observed_at.get(record.key) or 0.0))
            and self._clock.age(seen_at) >= self._timings.forgotten_s
        }

    async def _tell_parked(self, one: Versioned[Record], why: str, *, after_s: float | None = None) -> None:
        """Write into the batches of a key's parked requests what they wait for, and look the key up again later.

        If the record has changed meanwhile, the key stays claimed, and is looked up when the claim ends.
        """
        txn, key, told, rest = Txn(), one.value.key, 0, True
        self._store.records.expect(txn, key, one)
        while rest and told < TAKE_REQUESTS:
            raws, rest = await self._store.requests.parked(key, after=told)
            told += len(raws)
            for raw in raws:
                with suppress(InvalidInput):
                    request = decode_request(bytes(read_parked(raw).request))
                    if isinstance(request, UpRequest):
                        self._store.batches.put_row(txn, key, request.batch, BatchRow(message=why))
        if after_s is not None:
            self._store.look_ups.add(txn, str(self._target), key, self._store.now() + after_s)
        else:
            self._store.look_ups.remove(txn, str(self._target), key)
            self._store.restarts.reschedule(txn, key, self._store.now() + self._timings.after_credentials_error_s)
        await self._store.commit(txn)


def chosen_for(record: Record, shown: Sequence[Instance]) -> Instance | None:
    """The instance that counts for a key among those that EC2 shows for it. Pure."""
    return choose([one for one in shown if may_be_of(one, record.tag, record.generation)])


def _may_be_its_machine(instance: Instance) -> str:
    return (
        f"{instance.instance_id} of another launch may be its machine: EC2 does not show all Spot machines of that "
        "launch yet; looking again (if this lasts for minutes, terminate it in EC2)"
    )


def _first_checked(unsure: set[str]) -> str:
    """Why a new key waits; `unsure`: targets that are still to be checked."""
    target = TargetId.parse(min(unsure))
    of = f"profile {target.profile!r}" if target.profile else "the default credentials"
    more = f" and {len(unsure) - 1} more" if len(unsure) > 1 else ""
    return (
        f"Redis has lost data: first looking for a machine of this name in {target.region} with {of}{more} (if nobody "
        "can sign in there any more, remove that profile, or the folder targets in the worker's state folder)"
    )


def all_there(records: Iterable[Record | None], *, among: int) -> bool:
    """Whether `among` keys are all keys of the batches of these records, so that no more will come. Pure.

    Keys with living machines do not count: it is not known how many of them are still to be confirmed.
    """
    expected: dict[str | None, int] = {}
    for record in records:
        if record is not None and record.phase not in LIVE:
            expected[record.batch_id] = record.batch_size or 1
    return bool(expected) and among >= sum(expected.values())
