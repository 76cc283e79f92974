"""ensure: the arq job, one for each key. It finds the key's target, and has the key looked up there.

May run twice, and be killed anywhere: it writes once, with the record's revision as a guard; a second run finds that
the record has moved on and leaves it. If a worker dies, its key stays where it is until the stage `restart` runs the
job again. The job waits for nothing but the account's id, because a job that waits takes one of the `max_jobs`.
"""

from __future__ import annotations

from collections import Counter

import structlog

from puter_client.contract import transitions
from puter_client.contract.key import PuterKey
from puter_client.contract.phase import ENDED, LIVE, ON_ITS_WAY, Phase
from puter_client.contract.record import EventKind, Record
from puter_client.policy.rule import Refusal
from puter_worker.errors import Handling, PolicyRefused, StageError, TooManyTargets, is_final, reason_after
from puter_worker.stages.draft import decide_parked
from puter_worker.stages.stage import Stage, until_due
from puter_worker.store import wakeups
from puter_worker.store.arq_adapter import JobRunner, run_again
from puter_worker.store.store import Store
from puter_worker.store.targets import MOST_TARGETS
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import Versioned
from puter_worker.target import TargetId
from puter_worker.targets import Targets
from puter_worker.timings import Timings

_log = structlog.get_logger("puter.ensure")


class Ensure:
    """What the job of one key does."""

    def __init__(self, store: Store, targets: Targets, timings: Timings) -> None:
        self._store = store
        self._targets = targets
        self._timings = timings

    async def run(self, key: PuterKey) -> None:
        """Bring one key from `queued` to its target's look-up."""
        stored = await self._store.records.read_one(key)
        current = stored.found()
        if current is None or current.value.phase in ENDED:
            # The machine has ended, so parked requests need no confirmation by EC2 any more.
            await decide_parked(self._store, key, self._targets.rules)
            if stored.rev is None:
                await self._forget(key, stored)
            return
        record = current.value
        if record.phase in LIVE and record.target:
            # The job runs because requests are parked until EC2 has confirmed the record.
            await self._look_up(current, TargetId.parse(record.target))
        elif record.phase is Phase.LAUNCHING:
            await decide_parked(self._store, key, self._targets.rules)
            await self._see_to_launch(current)
        elif record.phase in ON_ITS_WAY:
            await self._find_target(current)

    async def _forget(self, key: PuterKey, stored: Versioned[Record | None]) -> None:
        """There is no record of the key any more: stop its restarts."""
        txn = Txn()
        self._store.records.expect(txn, key, stored)
        self._store.on_its_way.drop(txn, key)
        await self._store.commit(txn)

    async def _see_to_launch(self, current: Versioned[Record]) -> None:
        """Check a key that no stage has moved for long: it must be in the look-ups, its launch queue or an intent."""
        record, now, txn = current.value, self._store.now(), Txn()
        if not record.target:
            return
        if record.intent is None:
            self._store.records.expect(txn, record.key, current)
            if not await self._store.look_ups.of(record.target, record.namespace).has(record.tag):
                self._store.launch_queue.add(txn, record.target, record.key, now, if_new=True)
        elif (await self._store.intents.read(record.intent)).rev is None:
            # Redis has lost the intent, so it is not known whether it was sent: look the key up in EC2.
            _log.error("intent.lost", namespace=record.namespace, tag=record.tag, intent=record.intent)
            self._store.records.put(txn, current, record.replace(intent=None), event=EventKind.INTENT_LOST)
            self._store.look_ups.add(txn, record.target, record.key, now)
        self._store.restarts.reschedule(txn, record.key, now + self._timings.unclaimed_s)
        await self._store.commit(txn)

    async def _find_target(self, current: Versioned[Record]) -> None:
        record, profile = current.value, current.value.profile
        if (refusal := self._targets.rules.refusal_of_target(record, record.region)) is not None:
            await self._refuse(current, refusal)
            return
        if not self._targets.offers(profile or "") and profile in await self._store.workers.offered_profiles():
            reason = f"waiting for a worker that has AWS profile {profile!r}"
            await delay(self._store, current, reason, self._timings.another_worker_s)
            return
        try:
            target = await self._targets.find(profile, record.region)
        except StageError as error:
            await refused(self._store, current, error)
        else:
            refusal = self._targets.rules.refusal_of_target(record, target.target_id.region)
            if refusal is not None:
                await self._refuse(current, refusal)
            else:
                await self._look_up(current, target.target_id)

    async def _refuse(self, current: Versioned[Record], refusal: Refusal) -> None:
        self._targets.rules.refused(refusal)
        await fail(self._store, current, PolicyRefused(str(refusal)))

    async def _look_up(self, current: Versioned[Record], target: TargetId) -> None:
        record, now, txn = current.value, self._store.now(), Txn()
        if record.phase in LIVE:
            self._store.records.expect(txn, record.key, current)
        else:
            self._store.records.put(txn, current, transitions.resolving(record, str(target), now))
        self._store.look_ups.add(txn, str(target), record.key, now)
        # A machine that exists is looked after, however many targets its namespace has.
        room = None if record.phase in LIVE else self._store.targets_of.put(txn, record.namespace, str(target), now)
        if room in await self._store.commit(txn):
            await fail(self._store, current, too_many_targets(record.namespace, target))


class Jobs(Stage):
    """Feeds arq's queue and runs its ensure jobs; it waits only for Redis.

    May run twice: a tag is either in the backlog or in the queue, and one worker locks a job. If the worker is killed,
    the locks of its jobs run out.
    """

    name = "ensure"
    topics = frozenset({wakeups.JOBS})

    def __init__(self, store: Store, ensure: Ensure, timings: Timings, *, max_jobs: int) -> None:
        super().__init__()
        self._store = store
        self._timings = timings
        self._ensure = ensure
        self._runner = JobRunner(
            store.jobs,
            self._run_job,
            max_jobs=max_jobs,
            timeout_s=timings.job_timeout_s,
            on_end=self.wake,
        )

    async def run_once(self) -> float:
        """Fill arq's queue, and start jobs that are due."""
        for error, jobs in Counter(type(error).__name__ for error in self._runner.take_ended()).items():
            # Their locks run out, and their keys are restarted.
            _log.warning("job.interrupted", error=error, jobs=jobs)
        waiting = await self._store.jobs.feed()
        held = await self._runner.start_due()
        if waiting or held:
            # A tag has no place yet, or another worker runs a job: the end of that job does not wake this stage.
            return self._timings.backlog_again_s
        return until_due(await self._store.jobs.next_due(), self._store.now(), at_most=self._timings.sweep_s)

    async def drain(self) -> None:
        """Wait for the running jobs to end."""
        await self._runner.drain()

    async def _run_job(self, namespace: str, tag: str) -> None:
        key = PuterKey.checked(namespace, tag)
        try:
            await self._ensure.run(key)
        except self._store.errors as error:
            _log.warning("redis.unavailable", stage="ensure", error=type(error).__name__)
            raise run_again(self._timings.after_error_s) from None
        except Exception:  # noqa: BLE001 - a defect in one job must not end the others
            # A defect fails only this job; its key is restarted later.
            _log.exception("stage.failed", stage="ensure")


def too_many_targets(namespace: str, target: TargetId) -> TooManyTargets:
    """The error of a request for one target too many."""
    profile = f"profile {target.profile!r}" if target.profile else "the default profile"
    return TooManyTargets(
        f"{target.region} with {profile} would be one too many: namespace {namespace!r} has requests or machines in "
        f"{MOST_TARGETS} pairs of region and AWS profile, the most at a time. Request it again 10 minutes after those "
        "of one pair have ended, or from another namespace"
    )


async def refused(store: Store, current: Versioned[Record], error: StageError) -> None:
    """Handle an error of a key that is in no launch queue yet: the key fails, or waits with a reason."""
    if is_final(error):
        await fail(store, current, error)
        return
    timings = store.timings
    credentials = error.handling is Handling.CREDENTIALS
    after_s = timings.after_credentials_error_s if credentials else timings.ensure_again_s
    await delay(store, current, reason_after(error), after_s, request_id=error.request_id)


async def delay(
    store: Store, current: Versioned[Record], reason: str, after_s: float, *, request_id: str | None = None
) -> None:
    """Run the key's job again after a pause, with a reason; `request_id`: of the call that EC2 refused."""
    record, now, txn = current.value, store.now(), Txn()
    phase = Phase.LAUNCHING if record.phase is Phase.LAUNCHING else Phase.RESOLVING
    waiting = transitions.waiting(record, reason, now, phase=phase)
    event = EventKind.REQUEST_DELAYED if waiting.changed_at == now else None
    store.records.put(txn, current, waiting, event=event, request_id=request_id)
    store.restarts.reschedule(txn, record.key, now + after_s)
    await store.commit(txn)


async def fail(store: Store, current: Versioned[Record], error: StageError) -> None:
    """Fail the key's request, with this error."""
    record, txn = current.value, Txn()
    failed = transitions.failed(record, error.info, store.now())
    store.records.put(txn, current, failed, event=EventKind.PUTER_FAILED, request_id=error.request_id)
    _log.warning("puter.failed", namespace=record.namespace, tag=record.tag, code=error.code, message=error.message)
    await store.commit(txn)
