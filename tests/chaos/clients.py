"""The clients of a run: three of them request at once for sets of machines that overlap, then one of them orders."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from puter_client.client import MachineRequest, PuterClient
from puter_client.contract.errors import StoreUnavailable
from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Phase
from puter_client.contract.request import Origin
from puter_client.contract.spec import Spec
from puter_client.store.clientstore import ClientStore
from tests.chaos.plan import NAMESPACES
from tests.chaos.workloads import fate_of

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPx8Tn8wJmVvLq1uwRWhGtg5zT8p7xyk8vJ4k8jVvq3Z me"
CLIENTS = 3
OVERLAP = 0.5
Answer = TypeVar("Answer")
AGAIN_S = 0.2
# Past whatever clocks are set by, so that it is to come by each of them.
EXTENDED_BY_S = 30 * 86_400
# The clients come from two places: who joins a request from the other one has to be let in afterwards.
_FROM = ("192.0.2.7/32", "192.0.2.7/32", "198.51.100.9/32")


@dataclass(frozen=True)
class Submission:
    """A batch that Redis has acknowledged."""

    namespace: str
    batch_id: str
    tags: tuple[str, ...]


@dataclass
class Clients:
    """All clients of one run.

    Attributes:
        url: of their Redis.
        keys: everything that is requested by somebody.
        dice: seeded.
        over_s: for how long they go on submitting.
        acknowledged: the batches.
        expires_at: when machines end that were ordered to end later: seconds since 1970, by no clock that is set.
    """

    url: str
    keys: Sequence[PuterKey]
    dice: random.Random
    over_s: float
    acknowledged: list[Submission] = field(default_factory=list)
    expires_at: int = field(default_factory=lambda: int(time.time()) + EXTENDED_BY_S)

    async def submit_all(self) -> None:
        """Return when every request of every client is acknowledged."""
        async with asyncio.TaskGroup() as group:
            for number, keys in enumerate(self._shares()):
                group.create_task(self._one(number, keys, random.Random(self.dice.random())))

    async def order_all(self) -> None:
        """Order the ends of some machines, and later ends of others once they run; return when all are acknowledged.

        Nobody requests what was stopped: else it would run again, and rightly so.
        """
        async with asyncio.TaskGroup() as group:
            for namespace in NAMESPACES:
                group.create_task(self._order(namespace, random.Random(self.dice.random())))

    async def _order(self, namespace: str, dice: random.Random) -> None:
        client = PuterClient(ClientStore.connect(self.url), namespace=namespace, user="owner")
        tags = [key.tag for key in self.keys if key.namespace == namespace]
        dice.shuffle(tags)
        stopped, extended = ([tag for tag in tags if fate_of(tag).order == order] for order in ("stop", "extend"))
        try:
            async with asyncio.TaskGroup() as group:
                for part in _cut(stopped, dice, most=len(stopped) // 4):
                    group.create_task(self._stop(client, part, random.Random(dice.random())))
                for part in _cut(extended, dice, most=len(extended) // 4):
                    group.create_task(self._extend(client, part))
        finally:
            await client.aclose()

    async def _stop(self, client: PuterClient, tags: list[str], dice: random.Random) -> None:
        """Stop these machines at any time, when they run, or when one of them is seen to have ended."""
        moment, until = dice.choice(["any", "running", "ended"]), time.monotonic() + self.over_s
        if moment == "running":
            await _until_all_run(client, tags)
        while moment == "ended" and time.monotonic() < until:
            if Phase.TERMINATED in await _phases(client, tags):
                break
            await asyncio.sleep(AGAIN_S)
        if moment == "any":
            await asyncio.sleep(dice.uniform(0, self.over_s))
        await _acknowledged(partial(client.stop, tags))

    async def _extend(self, client: PuterClient, tags: list[str]) -> None:
        await _until_all_run(client, tags)
        await _acknowledged(partial(client.extend, tags, expires_at=float(self.expires_at)))

    def _shares(self) -> list[list[PuterKey]]:
        shares: list[list[PuterKey]] = [[] for _ in range(CLIENTS)]
        for key in self.keys:
            owner = self.dice.randrange(CLIENTS)
            for number, share in enumerate(shares):
                if number == owner or self.dice.random() < OVERLAP:
                    share.append(key)
        return shares

    async def _one(self, number: int, keys: list[PuterKey], dice: random.Random) -> None:
        clients = {
            namespace: PuterClient(ClientStore.connect(self.url), namespace=namespace, user=f"client-{number}")
            for namespace in NAMESPACES
        }
        helpings = list(_helpings(keys, dice))
        try:
            for namespace, tags in helpings:
                asked = [MachineRequest(tag, spec(tag, _FROM[number])) for tag in tags]
                # `up` would run again what has ended.
                origins = list(Origin) if fate_of(tags[0]).lives else [Origin.SUBMIT]
                batch_id = await _acknowledged(partial(clients[namespace].submit, asked, origin=dice.choice(origins)))
                self.acknowledged.append(Submission(namespace, batch_id, tuple(tags)))
                await asyncio.sleep(dice.uniform(0, 2 * self.over_s / len(helpings)))
        finally:
            for client in clients.values():
                await client.aclose()


def spec(tag: str, ssh_from: str) -> Spec:
    """The spec of a tag: the same for every client, except for the address. Every fifth machine is a Spot instance."""
    spot = int(tag.rpartition("-")[2]) % 5 == 0
    own: dict[str, Any] = fate_of(tag).fields
    return Spec(public_key=PUBLIC_KEY, ssh_from=(ssh_from,), region="us-east-1", run=f"echo {tag}", spot=spot, **own)


def _helpings(keys: list[PuterKey], dice: random.Random) -> list[tuple[str, list[str]]]:
    """Batches of a namespace's tags, each with one tag up to a quarter of all, in random order.

    What ends, and what lives on, are not in one batch.
    """
    found: list[tuple[str, list[str]]] = []
    for namespace in NAMESPACES:
        for lives in (False, True):
            tags = [k.tag for k in keys if k.namespace == namespace and fate_of(k.tag).lives is lives]
            dice.shuffle(tags)
            found += [(namespace, part) for part in _cut(tags, dice, most=len(keys) // 4)]
    dice.shuffle(found)
    return found


def _cut(tags: list[str], dice: random.Random, *, most: int) -> Iterator[list[str]]:
    """The tags in parts of random size."""
    while tags:
        size = dice.randint(1, max(1, most))
        yield tags[:size]
        tags = tags[size:]


async def _until_all_run(client: PuterClient, tags: list[str]) -> None:
    while await _phases(client, tags) != {Phase.RUNNING}:
        await asyncio.sleep(AGAIN_S)


async def _phases(client: PuterClient, tags: list[str]) -> set[Phase]:
    return {view.phase for view in await _acknowledged(partial(client.views, tags))}


async def _acknowledged(command: Callable[[], Awaitable[Answer]]) -> Answer:
    """Repeat a command as a user does when it says that Redis does not answer."""
    while True:
        try:
            return await command()
        except StoreUnavailable:
            await asyncio.sleep(AGAIN_S)
