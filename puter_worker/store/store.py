"""The workers' store: the only part of the worker that uses Redis. It has a few small objects on one connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from puter_worker.clock import Clock
from puter_worker.rates import Rates
from puter_worker.store import names, wakeups
from puter_worker.store.activity import Activity
from puter_worker.store.arq_adapter import JobQueue
from puter_worker.store.backoffs import Backoffs
from puter_worker.store.batches import Batches
from puter_worker.store.consoles import Consoles
from puter_worker.store.database import Database
from puter_worker.store.due_items import DueByNamespace
from puter_worker.store.failures import Failures
from puter_worker.store.ingress import IngressRules
from puter_worker.store.intents import Intents
from puter_worker.store.labels import Labels
from puter_worker.store.machines import Machines
from puter_worker.store.on_its_way import OnItsWay
from puter_worker.store.orders import Orders
from puter_worker.store.records import Records
from puter_worker.store.requests import Requests
from puter_worker.store.restarts import Restarts
from puter_worker.store.results import Results
from puter_worker.store.row_shares import RowShares
from puter_worker.store.targets import Leases, NamespaceTargets, TargetIndex, Unsure
from puter_worker.store.token_buckets import TokenBuckets
from puter_worker.store.txn import Txn
from puter_worker.store.usage import Usage
from puter_worker.store.users import Users
from puter_worker.store.workers import Epochs, Workers
from puter_worker.timings import Timings

if TYPE_CHECKING:
    from redis.asyncio import Redis

T = TypeVar("T")


class Store:
    """All that workers read and write in Redis.

    Attributes:
        db: the connection; its errors and refusals.
        requests: inboxes, the ready set, parked requests.
        users: whether those who wrote requests still exist.
        records: records and the specs that they serve.
        batches: heads, rows and live sets of batches.
        refused: the rows of refused requests, and how many are kept.
        failures: what failed of batches with `max_fails`.
        usage: what namespaces have of what a policy limits.
        on_its_way: keys that are queued, resolving or launching.
        jobs: arq's queue.
        restarts: keys whose job runs again if no stage moves them.
        targets: targets that have work.
        targets_of: the targets of each namespace.
        unsure: targets that may hold machines that Redis has forgotten.
        leases: the leader of each target.
        look_ups: keys to be looked up in EC2.
        launch_queue: keys that wait for launch.
        intents: open intents.
        backoffs: the backoffs of places and quotas.
        machines: machines that are alive.
        labels: machines whose own tags are not written yet.
        orders: machines whose owner has ordered something.
        results: machines whose workload's end is not known, and the output that consoles have shown.
        consoles: machines whose console somebody wants to see, and what was read there.
        ingress: rules that let further addresses reach existing machines.
        workers: the health of workers.
        epochs: how far this Redis has got.
        activity: whether anything is left to do.
        wakeups: messages for stages.
    """

    def __init__(self, redis: Redis, *, clock: Clock, timings: Timings) -> None:
        self.db = db = Database(redis, clock=clock, timings=timings)
        self.timings = timings
        self.errors = db.errors
        self.refusals = db.refusals
        self.targets = TargetIndex(db)
        self.targets_of = NamespaceTargets(db)
        self.unsure = Unsure(db, self.targets)
        self.leases = Leases(db)
        self.machines = Machines(db, self.targets)
        self.labels = Labels(db)
        self.batches = Batches(db)
        self.shares = RowShares(db, self.batches)
        self.results = Results(db)
        self.orders = Orders(db)
        self.failures = Failures(db)
        self.usage = Usage(db)
        self.on_its_way = OnItsWay(db)
        self.records = Records(
            db,
            machines=self.machines,
            labels=self.labels,
            results=self.results,
            orders=self.orders,
            on_its_way=self.on_its_way,
            batches=self.batches,
            failures=self.failures,
            usage=self.usage,
        )
        self.jobs = JobQueue(db)
        self.requests = Requests(db)
        self.users = Users(db)
        self.restarts = Restarts(db, self.jobs, on_its_way=self.on_its_way, parked=self.requests.parked_keys)
        self.look_ups = DueByNamespace(
            db,
            self.targets,
            groups=names.looking,
            items=names.look_ups,
            topic=wakeups.look_ups,
            longest_s=timings.longest_put_off_s,
        )
        self.launch_queue = DueByNamespace(
            db,
            self.targets,
            groups=names.launch_queues,
            items=names.launch_queue,
            topic=wakeups.launches,
            longest_s=timings.longest_put_off_s,
        )
        self.intents = Intents(db)
        self.backoffs = Backoffs(db)
        self.consoles = Consoles(db)
        self.ingress = IngressRules(db)
        self.workers = Workers(db)
        self.epochs = Epochs(db)
        self.activity = Activity(db, self.targets, self.machines)
        self.wakeups = wakeups.Wakeups(db)

    def now(self) -> float:
        """Redis TIME, in seconds since 1970."""
        return self.db.clock.now()

    def token_buckets(self, account: str, region: str, rates: Rates) -> TokenBuckets:
        """The token buckets of an account and region."""
        return TokenBuckets(self.db, account, region, rates)

    async def commit(self, txn: Txn) -> list[int]:
        """See Database.commit."""
        return await self.db.commit(txn)

    async def commit_each(self, items: Sequence[T], put: Callable[[Txn, T], None]) -> list[T]:
        """See Database.commit_each."""
        return await self.db.commit_each(items, put)

    async def commit_durably(self, txn: Txn) -> tuple[list[int], str | None]:
        """See Database.commit_durably."""
        return await self.db.commit_durably(txn)
