"""arq's queue: which keys' stages run, and which shall run again."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from puter_client.contract.key import PuterKey
from puter_worker.store import names
from puter_worker.store.base import KEEP_S, Base
from puter_worker.store.txn import Txn

RESTART_AFTER_S = 14.0  # and half a second: `restart` looks that often
# A namespace's share of the queue: its 10,000 do not hold up another's one.
ROOM_IN_QUEUE = 500


class Queue(Base):
    """Backlogs, arq's queue, and the set of what must move."""

    def enqueue(self, txn: Txn, key: PuterKey) -> None:
        """Let the key's stage run: its tag goes to the backlog, which `feed` empties into arq's queue."""
        txn.do("RPUSH", names.backlog(key.namespace), key.tag)
        txn.keep(names.backlog(key.namespace), KEEP_S)
        txn.once("SADD", names.BACKLOGS, key.namespace)
        txn.keep(names.BACKLOGS, KEEP_S)

    async def feed(self) -> int:
        """Move tags from the backlogs to arq's queue, each namespace within its room there; how many."""
        fed = 0
        for raw in await self.redis.smembers(names.BACKLOGS):
            namespace = raw.decode()
            fed += await self.scripts.feed(
                keys=[names.backlog(namespace), names.fed(namespace), names.BACKLOGS, names.QUEUE, names.MOVING],
                args=[namespace, int(self.now() * 1000), ROOM_IN_QUEUE, RESTART_AFTER_S],
            )
        return fed

    async def lock_jobs(self, ids: Sequence[str], *, now_ms: int, for_s: float) -> dict[str, int]:
        """Lock those of these jobs that are due and that nobody runs; their scores in the queue.

        `now_ms`: by the clock by which arq has picked them.
        """
        if not ids:
            return {}
        # If the answer is lost, the connection asks again: its own locks are told from those of others.
        args = [now_ms, int(for_s * 1000), names.fed(""), secrets.token_hex(8), *ids]
        locked = iter(await self.scripts.start(keys=[names.QUEUE], args=args))
        return {job_id.decode(): int(float(score)) for job_id, score in zip(locked, locked, strict=True)}

    async def restart_stuck(self, limit: int = 500) -> list[PuterKey]:
        """Enqueue keys that nothing has moved for their time; a stage may always run once more."""
        now = self.now()
        stuck: list[PuterKey] = []
        txn = Txn()
        for of in (names.MOVING, names.PARKED):
            for raw in await self.redis.zrangebyscore(of, "-inf", now, start=0, num=limit):
                key = PuterKey.parse(raw.decode())
                stuck.append(key)
                txn.do("ZADD", of, "XX", now + RESTART_AFTER_S, str(key))
                self.enqueue(txn, key)
        if txn:
            await self.commit(txn)
        return stuck

    def stop_moving(self, txn: Txn, key: PuterKey) -> None:
        """Nothing of the key is to be moved."""
        txn.do("ZREM", names.MOVING, str(key))

    def look_again(self, txn: Txn, key: PuterKey, at: float) -> None:
        """Run the key's stage again at a time, if it is still on its way then, or requests still wait for it.

        Its record alone decides whether a key is on its way: one that has moved on is not put back.
        """
        for of in (names.MOVING, names.PARKED):
            txn.do("ZADD", of, "XX", at, str(key))
