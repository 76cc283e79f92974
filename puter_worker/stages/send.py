"""The second half of launch: an intent is sent, its end found out, and its members told; by whoever holds its lease.

May run twice: what is sent is what is stored, under one ClientToken, so EC2 launches it once; members are told in
transactions that rest on their records still naming the intent. Killed anywhere, the intent stays open, marked
doubtful before anything was sent, and its lease runs out: `replay` first looks in EC2 for what bears its tag, and only
if nothing does sends the same bytes again. EC2 may not show yet what is there: what a look-up misses is looked for a
second time, at least 30 s later, before its keys are given back to the launch queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from puter_worker.ec2 import instances as ec2
from puter_worker.ec2.errors import Ec2Error, Handling
from puter_worker.ec2.instances import Instance
from puter_worker.stages.backoffs import after_no_capacity, after_quota, quota_reached, with_doubt
from puter_worker.stages.facts import DEAD, choose, generation_of
from puter_worker.stages.members import fail, give_back, made_anew, put_off, tell
from puter_worker.stages.waiting import is_final, reason_after
from puter_worker.store.backoff import Backoff
from puter_worker.store.base import Kept
from puter_worker.store.intent import Intent
from puter_worker.store.txn import Txn
from puter_worker.store.workerstore import WorkerStore
from puter_worker.target import Target
from puter_worker.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_log = structlog.get_logger("puter.launch")
LEASE_S = 10.0
RENEW_S = 3.0
# EC2 gives no bound for how long a new instance may stay unseen; in practice seconds.
SECOND_LOOK_AFTER_S = 30.0
# Past this nobody can say what EC2 still remembers of a token.
SAFE_TO_REPEAT_S = 900.0
RETRY_S = 2.0  # and twice as long after each further send
LONGEST_RETRY_S = 60.0
# What a launch was prepared with is remembered for minutes; somebody may have deleted it.
GONE = frozenset({"InvalidKeyPair.NotFound", "InvalidGroup.NotFound", "InvalidAMIID.NotFound"})
MOST_MADE_ANEW = 3
CREDENTIALS_S = 5.0
_HAS_ENDED = "an earlier machine of this name has ended; launching the next"


async def send(
    store: WorkerStore, target: Target, kept: Kept[Intent], *, leased_until: float, first: bool = True
) -> None:
    """Send a durable intent and tell its members what came of it.

    `leased_until`: when its lease, as this worker took it, runs out. `first`: this send is known to be the only one,
    so a refusal means that nothing was launched.
    """
    intent = kept.value
    if store.now() > leased_until:
        # This process has stood still: whoever took the intent up may be about to conclude that nothing was launched.
        return
    async with _held(store, intent):
        try:
            with structlog.contextvars.bound_contextvars(namespace=intent.namespace, intent=intent.intent_id):
                launched, request_id = await ec2.run_instances(target.caller, _arguments(intent))
        except Ec2Error as error:
            await _after_error(store, target, kept, error, first=first)
            return
        found = by_member(intent, launched)
        if first and found and all(instance.state in DEAD for instance in found.values()):
            # The token was used before, by an intent that Redis no longer knows.
            await give_back(store, target, kept, _HAS_ENDED, 0.0, ended=found)
            return
        await tell(store, target, intent, found, request_id=request_id)


async def replay(store: WorkerStore, target: Target, kept: Kept[Intent]) -> None:
    """Take up an open intent that nobody works on: find out what became of it, and go on from there."""
    intent = kept.value
    now, txn = store.now(), Txn()
    kept = store.put_intent(txn, kept, intent, lease_until=now + LEASE_S)
    if await store.commit(txn):
        return  # somebody else has taken it up
    _log.info("intent.taken_up", intent=intent.intent_id, members=len(intent.members), doubtful=intent.doubtful)
    if intent.token_known:
        await _adopt_by_key(store, target, kept)
        return
    async with _held(store, intent):
        try:
            found = by_member(intent, await _look_up(target, intent)) if intent.doubtful else {}
        except Ec2Error as error:
            await put_off(store, kept, intent, reason_after(error), RETRY_S, error=error)
            return
    if len(found) == len(intent.members):
        await tell(store, target, intent, found)
    elif found or intent.refused or now - intent.made_at > SAFE_TO_REPEAT_S:
        await _missed(store, target, kept, found)
    else:
        await _send_again(store, target, kept)


async def _send_again(store: WorkerStore, target: Target, kept: Kept[Intent]) -> None:
    intent = kept.value
    # Its machines were taken from their bucket when it was first sent.
    granted = await target.pacer.take([("RunInstances", 1)])
    if granted.wait_s > 0:
        await store.renew_intent(intent, store.now() + granted.wait_s)
        return
    txn, again = Txn(), intent.replace(doubtful=True, sends=intent.sends + 1)
    leased_until = store.now() + LEASE_S
    kept = store.put_intent(txn, kept, again, lease_until=leased_until)
    broken, why = await store.commit_durably(txn)
    if broken:
        return
    if why is not None:
        await put_off(store, kept, again, f"{why}; nothing is launched before", CREDENTIALS_S)
        return
    await send(store, target, kept, leased_until=leased_until, first=not intent.doubtful)


async def _after_error(store: WorkerStore, target: Target, kept: Kept[Intent], error: Ec2Error, *, first: bool) -> None:
    intent = kept.value
    # What is not doubtful says that this send had no effect; of an earlier one it says nothing.
    certain = first and not error.doubtful
    open_still = intent.replace(doubtful=not certain)
    if error.code in GONE:
        target.forget()  # what was remembered has been deleted since: it is made, or looked for, anew
    match error.handling:
        case Handling.AGAIN | Handling.THROTTLED | Handling.DOUBTFUL:
            # A refused launch of many costs as much as a granted one.
            pause_s = min(LONGEST_RETRY_S, RETRY_S * 2**intent.sends)
            await put_off(store, kept, open_still, reason_after(error), pause_s, error=error)
        case Handling.CREDENTIALS:
            await put_off(store, kept, open_still, reason_after(error), CREDENTIALS_S, error=error)
        case Handling.IDEMPOTENT_MISMATCH:
            await _adopt_by_key(store, target, Kept(intent.replace(doubtful=True, token_known=True), kept.rev))
        case Handling.IDEMPOTENT_TERMINATED:
            await _after_its_end(store, target, kept, certain=certain)
        case _ if not certain:
            refused = intent.replace(refused=error.code)
            await put_off(store, kept, refused, reason_after(error), RETRY_S, error=error)
        case _ if error.code in GONE and await made_anew(store, intent) < MOST_MADE_ANEW:
            await give_back(store, target, kept, reason_after(error), 0.0, error=error, anew=True)
        case _ if is_final(error):
            await fail(store, kept, error)
        case Handling.OTHER_ZONE:
            where = intent.capacity.removeprefix("capacity/").replace("/*", "").replace("/", " in ")
            why = f"no capacity for {where} ({error.code})"
            backoffs = await _no_capacity(store, target, intent, why)
            await give_back(store, target, kept, f"{why}, trying elsewhere", 0.0, error=error, backoffs=backoffs)
        case Handling.QUOTA | Handling.SPLIT:
            why = quota_reached(error.code, intent.quota)
            before = (await store.backoffs(intent.target)).get(intent.quota)
            backoff = after_quota(before, len(intent.members), store.now(), why)
            await give_back(store, target, kept, why, 0.0, error=error, backoffs={intent.quota: backoff})
        case _:
            await give_back(store, target, kept, reason_after(error), RETRY_S, error=error)


async def _no_capacity(store: WorkerStore, target: Target, intent: Intent, why: str) -> dict[str, Backoff]:
    """What a refusal for want of capacity teaches."""
    before, now = await store.backoffs(intent.target), store.now()
    taught = {intent.capacity: after_no_capacity(before.get(intent.capacity), now, why)}
    anywhere = intent.capacity.removesuffix("/*")
    if anywhere != intent.capacity:
        # EC2 found none wherever it looked: each zone is requested one machine first, not for a whole group.
        with suppress(Ec2Error):
            for zone in await target.zones():
                name = f"{anywhere}/{zone}"
                if name not in before:
                    taught[name] = with_doubt(now, why)
    return taught


async def _adopt_by_key(store: WorkerStore, target: Target, kept: Kept[Intent]) -> None:
    """The token is bound to another launch, of an intent that Redis no longer knows: what it launched bears the keys.

    This intent itself has launched nothing. A dead machine belongs to a generation that Redis has forgotten, and the
    request still wants one; where none is to be seen, the one that the token stands for may not be shown yet.
    """
    intent = kept.value
    try:
        found = await _by_key(target, intent)
    except Ec2Error as error:
        await put_off(store, kept, intent, reason_after(error), RETRY_S, error=error)
        return
    _log.warning("intent.token_known", intent=intent.intent_id, found=len(found))
    living = {tag: instance for tag, instance in found.items() if instance.state not in DEAD}
    if living:
        await tell(store, target, intent, living)
    elif len(found) == len(intent.members):
        await give_back(store, target, kept, _HAS_ENDED, 0.0, ended=found)
    elif not await _looks_again(store, kept):
        await give_back(store, target, kept, "its name was requested before, in vain; launching anew", 0.0)


async def _after_its_end(store: WorkerStore, target: Target, kept: Kept[Intent], *, certain: bool) -> None:
    """What the token launched has ended.

    `certain`: this intent itself launched nothing, so it was a generation that Redis has forgotten. Otherwise it was
    the very machine that was requested.
    """
    intent = kept.value
    try:
        found = await _by_key(target, intent)
    except Ec2Error as error:
        await put_off(store, kept, intent.replace(doubtful=not certain), reason_after(error), RETRY_S, error=error)
        return
    if certain and all(instance.state in DEAD for instance in found.values()):
        await give_back(store, target, kept, _HAS_ENDED, 0.0, ended=found)
    else:
        await tell(store, target, intent, found, missing_ended=True)


async def _by_key(target: Target, intent: Intent) -> dict[str, Instance]:
    """What EC2 shows under the members' keys, by tag; of what has ended, no earlier generation."""
    shown = await target.look_up(intent.namespace, [member.tag for member in intent.members])
    found: dict[str, Instance] = {}
    for member in intent.members:
        of_it = [i for i in shown[member.tag] if i.state not in DEAD or generation_of(i) >= member.generation]
        instance = choose(of_it)
        if instance is not None:
            found[member.tag] = instance
    return found


async def _missed(store: WorkerStore, target: Target, kept: Kept[Intent], found: Mapping[str, Instance]) -> None:
    """Some members, or all, were not to be seen."""
    if not await _looks_again(store, kept):
        await tell(store, target, kept.value, found)


async def _looks_again(store: WorkerStore, kept: Kept[Intent]) -> bool:
    """Put an intent off to look a second time before concluding that what is not to be seen is not there."""
    intent = kept.value
    now = store.now()
    if intent.missed_at is not None and now - intent.missed_at >= SECOND_LOOK_AFTER_S:
        return False
    looking = intent if intent.missed_at is not None else intent.replace(missed_at=now)
    wait_s = SECOND_LOOK_AFTER_S if intent.missed_at is None else RETRY_S
    await put_off(store, kept, looking, "not all of the launch is to be seen in EC2 yet; looking again", wait_s)
    return True


async def _look_up(target: Target, intent: Intent) -> Sequence[Instance]:
    return await ec2.find_by_intent(target.caller, intent.intent_id)


def by_member(intent: Intent, launched: Sequence[Instance]) -> dict[str, Instance]:
    """The instances of an intent by the tag of their member; of a single one, whatever its index."""
    if len(intent.members) == 1:
        instance = choose(list(launched))
        return {intent.members[0].tag: instance} if instance else {}
    return {
        intent.members[instance.ami_launch_index].tag: instance
        for instance in launched
        if 0 <= instance.ami_launch_index < len(intent.members)
    }


def _arguments(intent: Intent) -> dict[str, Any]:
    arguments: dict[str, Any] = msgspec.json.decode(intent.arguments)
    return arguments


@asynccontextmanager
async def _held(store: WorkerStore, intent: Intent) -> AsyncIterator[None]:
    """Renew the intent's lease while inside, so that nobody else takes it up while this worker lives."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await store.renew_intent(intent, store.now() + LEASE_S)
            except store.errors as error:
                # If it runs out meanwhile, somebody else looks and adopts: harmless, see above.
                _log.warning("lease.not_renewed", intent=intent.intent_id, error=type(error).__name__)

    renewing = asyncio.create_task(renew())
    try:
        yield
    finally:
        await cancel_all([renewing])
