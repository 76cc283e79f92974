"""Whether anything is left to do, for a worker that ends by itself."""

from __future__ import annotations

from puter_client.store import names as public
from puter_worker.store import names
from puter_worker.store.arq_adapter import QUEUE
from puter_worker.store.database import Database
from puter_worker.store.machines import Machines
from puter_worker.store.targets import TargetIndex


class Activity:
    """What waits, is on its way or is alive, in all namespaces and targets."""

    def __init__(self, db: Database, targets: TargetIndex, machines: Machines) -> None:
        self._db = db
        self._targets = targets
        self._machines = machines

    async def unfinished(self) -> int:
        """How many things are left to do: inboxes to read, keys on their way, labels to write and so on."""
        targets = await self._targets.all()
        async with self._db.redis.pipeline(transaction=False) as pipe:
            pipe.scard(public.READY)
            pipe.scard(names.BACKLOGS)
            pipe.zcard(names.MOVING)
            pipe.zcard(names.PARKED)
            pipe.zcard(QUEUE)
            pipe.scard(names.INGRESS)
            pipe.zcard(names.FAILURES)
            for target in targets:
                pipe.zcard(names.due(names.LABELS, target))
                pipe.zcard(names.due(names.INTENTS, target))
            return sum(await pipe.execute())

    async def any_starting(self) -> bool:
        """Whether a machine is launched but does not run yet, or may still get its address."""
        return any([await self._machines.starting_count(target) for target in await self._targets.all()])

    async def in_use(self) -> bool:
        """Whether any machine is alive, or any request or key is on its way."""
        if await self.unfinished():
            return True
        return any([await self._machines.live_count(target) for target in await self._targets.all()])
