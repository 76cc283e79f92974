"""replay: takes up open intents whose lease has ended. A stage of the target's leader; `send` says why it is safe."""

from __future__ import annotations

from puter_worker.stages.quarantine import Quarantine
from puter_worker.stages.send import Sender
from puter_worker.stages.stage import Stage, until_due
from puter_worker.store import wakeups
from puter_worker.store.store import Store
from puter_worker.target import Target
from puter_worker.tasks import wait_for_all
from puter_worker.timings import Timings

AT_ONCE = 16


class Replay(Stage):
    """Takes up the intents of one target whose leases have ended."""

    name = "replay"
    least_gap_s = 0.05

    def __init__(self, store: Store, target: Target, gate: Quarantine, timings: Timings) -> None:
        super().__init__()
        self.topics = frozenset({wakeups.intents(str(target))})
        self._store = store
        self._target = target
        self._gate = gate
        self._timings = timings
        self._sender = Sender(store, target, timings)

    async def run_once(self) -> float:
        """Take up the intents that no worker holds."""
        if not await self._gate.open():  # also if there is no intent: it adopts machines after a loss of Redis's data
            return self._timings.shut_s
        items = self._store.intents.open_of(str(self._target))
        found = await self._store.intents.unattended(str(self._target), self._store.now())
        await wait_for_all(self._sender.replay(intent) for intent in found[:AT_ONCE])
        if len(found) > AT_ONCE:
            return 0.0
        return until_due(await items.next_due(), self._store.now(), at_most=self._timings.sweep_s)
