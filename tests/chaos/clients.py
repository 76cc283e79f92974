"""The clients of a run: three of them request at once for sets of machines that overlap."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from puter_client.client import MachineRequest, PuterClient
from puter_client.contract.errors import StoreUnavailable
from puter_client.contract.key import PuterKey
from puter_client.contract.request import Origin
from puter_client.contract.spec import Spec
from puter_client.store.clientstore import ClientStore
from tests.chaos.plan import NAMESPACES

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPx8Tn8wJmVvLq1uwRWhGtg5zT8p7xyk8vJ4k8jVvq3Z me"
CLIENTS = 3
OVERLAP = 0.5
AGAIN_S = 0.2
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
    """

    url: str
    keys: Sequence[PuterKey]
    dice: random.Random
    over_s: float
    acknowledged: list[Submission] = field(default_factory=list)

    async def submit_all(self) -> None:
        """Return when every request of every client is acknowledged."""
        async with asyncio.TaskGroup() as group:
            for number, keys in enumerate(self._shares()):
                group.create_task(self._one(number, keys, random.Random(self.dice.random())))

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
                batch_id = await _submitted(clients[namespace], asked, dice.choice(list(Origin)))
                self.acknowledged.append(Submission(namespace, batch_id, tuple(tags)))
                await asyncio.sleep(dice.uniform(0, 2 * self.over_s / len(helpings)))
        finally:
            for client in clients.values():
                await client.aclose()


def spec(tag: str, ssh_from: str) -> Spec:
    """The spec of a tag: the same for every client, except for the address. Every fifth machine is a Spot instance."""
    spot = int(tag.rpartition("-")[2]) % 5 == 0
    return Spec(public_key=PUBLIC_KEY, ssh_from=(ssh_from,), region="us-east-1", run=f"echo {tag}", spot=spot)


def _helpings(keys: list[PuterKey], dice: random.Random) -> list[tuple[str, list[str]]]:
    """Batches of a namespace's tags, each with one tag up to a quarter of all, in random order."""
    found: list[tuple[str, list[str]]] = []
    for namespace in NAMESPACES:
        tags = [key.tag for key in keys if key.namespace == namespace]
        dice.shuffle(tags)
        while tags:
            size = dice.randint(1, max(1, len(keys) // 4))
            found.append((namespace, tags[:size]))
            tags = tags[size:]
    dice.shuffle(found)
    return found


async def _submitted(client: PuterClient, asked: list[MachineRequest], origin: Origin) -> str:
    """Repeat a command as a user does when it says that Redis does not answer."""
    while True:
        try:
            return await client.submit(asked, origin=origin)
        except StoreUnavailable:
            await asyncio.sleep(AGAIN_S)
