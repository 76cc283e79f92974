"""The second part of launch: the worker that holds an intent's lease sends it, and handles its outcome.

May run twice: the stored bytes are sent, under one ClientToken, so EC2 launches them once; and the outcome is written
only into records that still name the intent. May be killed anywhere: the intent stays open, was marked doubtful before
anything was sent, and its lease ends. Then `replay` first looks in EC2 for instances with its tag, and sends the same
bytes again only if there are none. A Spot launch of several machines is sent again also if EC2 shows some of them: only
all of them tell which is which, and the answer has them all. EC2 may not show an instance yet: what a look-up misses is
looked for a second time, at least 30 s later, before its keys are put back into the launch queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from puter_worker.clock import STEP_S
from puter_worker.ec2 import instances as ec2
from puter_worker.ec2.instances import Instance, with_places
from puter_worker.errors import Ec2Error, Handling, StageError, is_final, reason_after
from puter_worker.rates import RUN_INSTANCES
from puter_worker.stages.backoffs import (
    after_no_capacity,
    after_quota,
    capacity_missing,
    capacity_name,
    quota_name,
    quota_reached,
    with_doubt,
)
from puter_worker.stages.facts import DEAD, choose, generation_of
from puter_worker.stages.members import Members
from puter_worker.store.backoff import Backoff
from puter_worker.store.intent import Intent
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import Versioned
from puter_worker.target import Target
from puter_worker.tasks import cancel_all
from puter_worker.timings import Timings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_log = structlog.get_logger("puter.launch")
# The image, key pair and group of a launch are cached for minutes; a user may have deleted one meanwhile.
GONE = frozenset({"InvalidKeyPair.NotFound", "InvalidGroup.NotFound", "InvalidAMIID.NotFound"})
MOST_MADE_ANEW = 3
ABSENT_AFTER_LOOKS = 2
_HAS_ENDED = "an earlier machine of this name has ended; launching the next"


class Sender:
    """Sends the intents of one target, and takes up those whose lease has ended."""

    def __init__(self, store: Store, target: Target, timings: Timings) -> None:
        self._store = store
        self._target = target
        self._timings = timings
        self._members = Members(store, target, timings)

    async def send(self, current: Versioned[Intent], *, leased_until: float, first: bool = True) -> None:
        """Send a durable intent, and write the outcome into its members' records.

        `leased_until`: when the lease that this worker took ends. `first`: this send is known to be the only one, so
        a refusal means that nothing was launched.
        """
        intent = current.value
        if self._store.now() > leased_until:
            # This process was suspended: a worker that has taken the intent up may be about to conclude that nothing
            # was launched.
            return
        async with self._held(intent):
            try:
                with structlog.contextvars.bound_contextvars(namespace=intent.namespace, intent=intent.intent_id):
                    launched, request_id = await ec2.run_instances(self._target.caller, _arguments(intent))
            except StageError as error:
                self._target.metrics.launched(error.handling.value, len(intent.members), 0)
                await self._after_error(current, error, first=first)
                return
            self._target.metrics.launched("launched", len(intent.members), len(launched))
            found = by_member(intent, launched)
            if intent.has_unassigned and len(found) < len(intent.members):
                # Which machine is which follows from all of them, and RunInstances launches all or none.
                why = f"EC2 shows {len(launched)} of the launch's {len(intent.members)} machines; looking again"
                doubtful = intent.replace(doubtful=True)
                await self._members.delayed(current, doubtful, why, self._pause_s(intent))
                return
            if first and found and all(instance.state in DEAD for instance in found.values()):
                # The token was used before, by an intent that Redis has forgotten.
                await self._members.queued_after(current, found, _HAS_ENDED)
                return
            await self._members.launched(intent, found, request_id=request_id)

    async def replay(self, current: Versioned[Intent]) -> None:
        """Take up an open intent whose lease has ended: find out its outcome, and continue from there."""
        intent = current.value
        now, txn = self._store.now(), Txn()
        current = self._store.intents.put(txn, current, intent, lease_until=now + self._timings.intent_lease_s)
        if await self._store.commit(txn):
            return  # another worker has taken it up
        _log.info("intent.taken_up", intent=intent.intent_id, members=len(intent.members), doubtful=intent.doubtful)
        if intent.token_known:
            await self._adopt_by_key(current)
            return
        asked_at = self._target.absences.asked()
        async with self._held(intent):
            try:
                shown = await self._look_up(intent) if intent.doubtful else []
            except StageError as error:
                await self._delayed(current, intent, error)
                return
        found = by_member(intent, shown)
        if len(found) == len(intent.members):
            await self._members.launched(intent, found)
        elif (shown and not intent.has_unassigned) or intent.refused or self._is_old(intent):
            await self._missed(current, shown, asked_at)
        else:
            await self._send_again(current)

    def _is_old(self, intent: Intent) -> bool:
        """Whether EC2 may have forgotten the intent's token; also if nobody knows how long ago it was made."""
        clock, safe_s = self._store.db.clock, self._timings.safe_to_repeat_s
        return not 0.0 <= clock.now() - intent.made_at + STEP_S <= safe_s or clock.was_set_within(safe_s)

    async def _send_again(self, current: Versioned[Intent]) -> None:
        intent, lease_s = current.value, self._timings.intent_lease_s
        # The tokens for its machines were taken when it was first sent.
        wait_s = await self._target.pacer.take_now(RUN_INSTANCES)
        if wait_s > 0:
            await self._store.intents.renew(intent, self._store.now() + min(wait_s, lease_s))
            return
        txn, again = Txn(), intent.replace(doubtful=True, sends=intent.sends + 1)
        leased_until = self._store.now() + lease_s
        current = self._store.intents.put(txn, current, again, lease_until=leased_until)
        broken, why = await self._store.commit_durably(txn)
        if broken:
            return
        if why is not None:
            reason = f"{why}; launches wait until this works"
            await self._members.delayed(current, again, reason, self._timings.after_credentials_error_s)
            return
        await self.send(current, leased_until=leased_until, first=not intent.doubtful)

    async def _after_error(self, current: Versioned[Intent], error: StageError, *, first: bool) -> None:
        intent = current.value
        # An error that is not doubtful means that this send had no effect; it says nothing about an earlier send.
        certain = first and not error.doubtful
        open_still = intent.replace(doubtful=not certain)
        if error.code in GONE and isinstance(error, Ec2Error):
            self._target.forget(error.about)  # it was deleted: it is read or made again
        match error.handling:
            case Handling.AGAIN | Handling.THROTTLED | Handling.DOUBTFUL:
                await self._delayed(current, open_still, error, self._pause_s(intent))
            case Handling.CREDENTIALS:
                await self._delayed(current, open_still, error, self._timings.after_credentials_error_s)
            case Handling.IDEMPOTENT_MISMATCH:
                known = intent.replace(doubtful=True, token_known=True)
                await self._adopt_by_key(Versioned(known, current.rev))
            case Handling.IDEMPOTENT_TERMINATED:
                await self._after_its_end(current, certain=certain)
            case _ if not certain:
                await self._delayed(current, intent.replace(refused=error.code), error)
            case _:
                await self._after_refusal(current, error)

    def _pause_s(self, intent: Intent) -> float:
        """How long an intent waits that is sent again: its call costs as many tokens as it has machines."""
        return min(self._timings.send_again_longest_s, self._timings.send_again_s * 2.0 ** min(intent.sends, 30))

    async def _after_refusal(self, current: Versioned[Intent], error: StageError) -> None:
        """Handle a refusal after which it is certain that EC2 has launched nothing."""
        intent, now = current.value, self._store.now()
        if error.code in GONE and await self._members.made_anew(intent) < MOST_MADE_ANEW:
            await self._members.queued_again(current, reason_after(error), error=error, anew=True)
        elif is_final(error):
            await self._members.failed(current, error)
        elif isinstance(error, Ec2Error) and error.handling is Handling.OTHER_ZONE:
            why, backoffs = await self._no_capacity(intent, error)
            await self._members.queued_again(current, f"{why}, trying elsewhere", error=error, backoffs=backoffs)
        elif isinstance(error, Ec2Error) and error.handling is Handling.SPLIT and len(intent.members) == 1:
            await self._members.failed(current, error)  # it cannot be split further
        elif isinstance(error, Ec2Error) and error.handling in (Handling.QUOTA, Handling.SPLIT):
            why = quota_reached(error.code, intent.place)
            name = quota_name(intent.place, intent.disk, about=error.about)
            before = (await self._store.backoffs.read(intent.target)).get(name)
            backoff = after_quota(before, len(intent.members), now, why, self._timings)
            await self._members.queued_again(current, why, error=error, backoffs={name: backoff})
        else:
            pause_s = self._timings.send_again_s
            await self._members.queued_again(current, reason_after(error), pause_s=pause_s, error=error)

    async def _delayed(
        self, current: Versioned[Intent], intent: Intent, error: StageError, pause_s: float | None = None
    ) -> None:
        pause_s = self._timings.send_again_s if pause_s is None else pause_s
        await self._members.delayed(current, intent, reason_after(error), pause_s, error=error)

    async def _no_capacity(self, intent: Intent, error: Ec2Error) -> tuple[str, dict[str, Backoff]]:
        """What a refusal for want of capacity means, and the backoffs that follow from it, by name."""
        place, why = intent.place, capacity_missing(error, intent.place)
        before, now = await self._store.backoffs.read(intent.target), self._store.now()
        name = capacity_name(place, intent.disk, about=error.about)
        taught = {name: after_no_capacity(before.get(name), now, why, self._timings)}
        if place.where is None:
            # EC2 found no capacity in any zone that it tried: each zone is tried with one machine before a group.
            with suppress(StageError):
                for zone in await self._target.zones():
                    in_zone = msgspec.structs.replace(place, zone=zone)
                    name = capacity_name(in_zone, intent.disk, about=error.about)
                    if name not in before:
                        taught[name] = with_doubt(now, why)
        return why, taught

    async def _adopt_by_key(self, current: Versioned[Intent]) -> None:
        """The token is bound to a launch of an intent that Redis has forgotten: adopt its machines by their keys.

        This intent itself has launched nothing. A machine that has ended is of a generation that Redis has forgotten,
        so the request still needs a machine. If EC2 shows none, it may not show the token's machine yet.
        """
        intent, asked_at = current.value, self._target.absences.asked()
        try:
            found = await self._by_key(intent)
        except StageError as error:
            await self._delayed(current, intent, error)
            return
        _log.warning("intent.token_known", intent=intent.intent_id, found=len(found))
        living = {tag: instance for tag, instance in found.items() if instance.state not in DEAD}
        if living:
            await self._members.launched(intent, living)
        elif len(found) == len(intent.members):
            await self._members.queued_after(current, found, _HAS_ENDED)
        elif not await self._looks_again(current, asked_at):
            await self._members.queued_again(current, "the earlier launch failed; retrying")

    async def _after_its_end(self, current: Versioned[Intent], *, certain: bool) -> None:
        """The instances that the token launched have ended.

        `certain`: this intent itself launched nothing, so they were of a generation that Redis has forgotten. Otherwise
        they were the requested machines.
        """
        intent = current.value
        try:
            if intent.has_unassigned:
                found = by_member(intent, await self._look_up(intent), all_there=True)
            else:
                found = await self._by_key(intent)
        except StageError as error:
            await self._delayed(current, intent.replace(doubtful=not certain), error)
            return
        if certain and all(instance.state in DEAD for instance in found.values()):
            await self._members.queued_after(current, found, _HAS_ENDED)
        else:
            await self._members.launched(intent, found, missing_ended=True)

    async def _by_key(self, intent: Intent) -> dict[str, Instance]:
        """The instances that EC2 shows for the members' keys, by tag, without ended ones of earlier generations."""
        shown = await self._target.look_up(intent.namespace, [member.tag for member in intent.members])
        found: dict[str, Instance] = {}
        for member in intent.members:
            of_it = [
                i
                for i in shown[member.tag]
                if not i.is_unassigned and (i.state not in DEAD or generation_of(i, unknown=0) >= member.generation)
            ]
            instance = choose(of_it)
            if instance is not None:
                found[member.tag] = instance
        return found

    async def _missed(self, current: Versioned[Intent], shown: Sequence[Instance], asked_at: float) -> None:
        """EC2 does not show the instances of some members, or of all: look again, or conclude that there are none."""
        if not await self._looks_again(current, asked_at):
            await self._members.launched(current.value, by_member(current.value, shown, all_there=True))

    async def _looks_again(self, current: Versioned[Intent], asked_at: float) -> bool:
        """Whether missing instances are looked for again before they count as absent; if so, the intent is delayed.

        `asked_at`: when EC2 was asked for them, see `Absences.asked`.
        """
        intent, timings, absences = current.value, self._timings, self._target.absences
        first = not absences.knows(intent.intent_id)
        if absences.missed(intent.intent_id, looks=ABSENT_AFTER_LOOKS, asked_at=asked_at):
            return False
        reason = "EC2 does not show all machines of the launch yet; looking again"
        await self._members.delayed(current, intent, reason, timings.second_look_s if first else timings.send_again_s)
        return True

    async def _look_up(self, intent: Intent) -> Sequence[Instance]:
        return await ec2.find_by_intents(self._target.caller, [intent.intent_id])

    @asynccontextmanager
    async def _held(self, intent: Intent) -> AsyncIterator[None]:
        """Renew the intent's lease inside `async with`, so that no other worker takes it up while this one runs."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(self._timings.intent_renew_s)
                try:
                    await self._store.intents.renew(intent, self._store.now() + self._timings.intent_lease_s)
                except self._store.errors as error:
                    # If the lease ends meanwhile, another worker looks up and adopts, which is harmless (see above).
                    _log.warning("lease.not_renewed", intent=intent.intent_id, error=type(error).__name__)

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            await cancel_all([renewing])


def by_member(intent: Intent, shown: Sequence[Instance], *, all_there: bool = False) -> dict[str, Instance]:
    """The instances of an intent by the tag of their member. Pure.

    Args:
        intent: for its only member any instance is right.
        shown: its instances, as far as EC2 shows them.
        all_there: whether nothing else will be shown: then machines of a Spot launch without a place, which have not
            begun any workload, get those that are left.
    """
    if len(intent.members) == 1:
        instance = choose(list(shown))
        return {intent.members[0].tag: instance} if instance else {}
    placed = with_places(shown) if all_there or len(shown) == len(intent.members) else shown
    return {
        intent.members[one.number].tag: one
        for one in sorted(placed, key=lambda one: one.state not in DEAD)  # of two with one place the living one counts
        if one.number is not None and 0 <= one.number < len(intent.members)
    }


def _arguments(intent: Intent) -> dict[str, Any]:
    arguments: dict[str, Any] = msgspec.json.decode(intent.arguments)
    return arguments
