"""Which targets may hold machines that Redis has forgotten: no new key is launched before they were checked.

One key never has two machines, whichever targets it is requested for; while Redis has its record, the record sees to
that. A Redis that was emptied or put back has lost records. Every worker compares how far Redis says it has got with
what it remembers of each target (`memory`), and notes those that Redis contradicts. The leader of such a target makes
records of the machines that live there (`quarantine`), and removes the note. Until then, resolve lets no key wait for
its launch that has never had a machine as far as Redis knows, in any target.

May run twice: a note that is there already is made again, and a target is checked once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from puter_worker.memory import Epoch, Memory
from puter_worker.store.store import Store
from puter_worker.target import TargetId
from puter_worker.targets import Targets


class Forgotten:
    """What this worker remembers, compared with what Redis knows."""

    def __init__(self, store: Store, targets: Targets, memory: Memory) -> None:
        self._store = store
        self._targets = targets
        self._memory = memory
        self._noted: dict[str, Epoch] = {}  # by this process, with how far Redis had got then

    async def compare(self, known_to_redis: Sequence[str] = ()) -> None:
        """Note the targets that Redis contradicts; of `known_to_redis`, remember how far Redis has got for the others.

        This worker may lead these targets next.
        """
        remembered = self._memory.launched_in()  # before Redis is read: what is launched meanwhile is no contradiction
        shown = await self._store.epochs.read()
        contradicted = [target for target, known in remembered.items() if known.contradicts(shown)]
        for target in known_to_redis:
            known = self._memory.of(target)
            if known is None or not known.contradicts(shown):
                self._memory.saw(target, shown)
        self._noted = {target: epoch for target, epoch in self._noted.items() if target in contradicted}
        if contradicted:
            await self._note(contradicted, shown)

    async def others(self, target: str) -> set[str]:
        """The targets, other than this one, that are still to be checked."""
        await self.compare()
        return await self._store.unsure.all() - {target}

    async def _note(self, contradicted: Sequence[str], shown: Epoch) -> None:
        left = await self._store.unsure.all(also_without_rememberer=True)
        new: list[str] = []
        for target in contradicted:
            before = self._noted.get(target)
            if before is not None and before.epoch_id == shown.epoch_id and before.launches <= shown.launches:
                if target in left:
                    await self._store.unsure.put([target], only_renew=True)
                else:  # another worker has checked it
                    self._memory.saw(target, shown)
            else:
                new.append(target)
        reached = await asyncio.gather(*(self._targets.reaches(TargetId.parse(target)) for target in new))
        for target, is_reached in zip(new, reached, strict=True):
            if is_reached:
                await self._store.unsure.put([target])
                self._noted[target] = shown
