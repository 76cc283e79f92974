"""Ties machines to the instances of the simulated EC2: what is launched there boots here, what ends here ends there."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.ec2sim.client import ControlClient
from tests.ec2sim.reports import Seen
from tests.machine.image import AL2023, Image, Packages
from tests.machine.life import Life
from tests.machine.machine import PATIENCE_S, Machine
from tests.machine.metadata import SpotNotice

_LOOK_S = 0.1
_TAKEN_BACK = ("Server.SpotInstanceTermination", "Server.SpotInstanceTermination: Spot instance termination")


class MachineWorld:
    """While inside, each instance that runs in the simulator is a machine.

    Attributes:
        sim: the simulator's side door.
        ec2: a boto3 client of it.
        image: what machines look like that boot from now on.
        packages: whether their package manager has what it is asked for.
        network: whether anything answers in the network of machines that boot from now on.
    """

    def __init__(self, root: Path, sim: ControlClient, ec2: Any) -> None:
        self.sim = sim
        self.ec2 = ec2
        self.image: Image = AL2023
        self.packages: Packages = "there"
        self.network = True
        self._root = root
        self._lives: dict[str, Life] = {}

    async def __aenter__(self) -> Self:
        await self.sim.configure(greeting=False)
        self._watch = asyncio.create_task(self._watched())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [self._watch, *(life.task for life in self._lives.values())]
        failed = [task for task in tasks if task.done() and task.exception()]
        self._watch.cancel()
        for life in self._lives.values():
            print(f"--- the console of {life.machine.name} ends with:\n{life.machine.last_words()}")
            await life.close()
        for task in failed:
            task.result()

    async def launch(self, user_data: bytes, *, count: int = 1, **arguments: Any) -> list[Machine]:
        """RunInstances, with further arguments if given; the machines by launch index, switched on."""
        images = self.ec2.describe_images(Owners=["amazon"], Filters=[{"Name": "architecture", "Values": ["x86_64"]}])
        usual = {
            "ImageId": images["Images"][0]["ImageId"],
            "InstanceType": "t3.micro",
            "MinCount": count,
            "MaxCount": count,
            "UserData": user_data,
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {"HttpTokens": "required"},
        }
        launched = self.ec2.run_instances(**usual | arguments)["Instances"]
        launched.sort(key=lambda one: one["AmiLaunchIndex"])
        return [await self.machine(one["InstanceId"]) for one in launched]

    async def machine(self, instance_id: str) -> Machine:
        """The machine that an instance is, once it is switched on."""
        give_up_at = time.monotonic() + PATIENCE_S
        while instance_id not in self._lives:
            if self._watch.done():
                self._watch.result()
            assert time.monotonic() < give_up_at, f"waited until {instance_id} is switched on"
            await asyncio.sleep(0.02)
        return self._lives[instance_id].machine

    async def seen(self, instance_id: str) -> Seen:
        """An instance as it really is."""
        return await self._lives[instance_id].seen()

    def console(self, instance_id: str, *, latest: bool) -> str:
        """What GetConsoleOutput answers."""
        return str(self.ec2.get_console_output(InstanceId=instance_id, Latest=latest).get("Output", ""))

    def set_tag(self, instance_id: str, key: str, value: str) -> None:
        """CreateTags; the machine can read it if its tags are in its metadata."""
        self.ec2.create_tags(Resources=[instance_id], Tags=[{"Key": key, "Value": value}])

    def spot_notice(self, instance_id: str, *, action: str = "terminate", in_s: float = 120.0) -> SpotNotice:
        """Have the machine's metadata say that it will be interrupted; `interrupt` does it."""
        notice = self._lives[instance_id].metadata.notice = SpotNotice(action=action, at=time.time() + in_s)
        return notice

    async def interrupt(self, instance_id: str) -> None:
        """EC2 takes a Spot instance back."""
        await self.sim.end(instance_id, *_TAKEN_BACK)

    async def _watched(self) -> None:
        while True:
            for seen in await self.sim.instances():
                life = self._lives.get(seen.id)
                if life is None and seen.state == "running":
                    self._lives[seen.id] = Life(
                        seen.id, self.sim, self._root, self.image, self.packages, answers=self.network
                    )
                elif life and not seen.live and not life.machine.over.is_set():
                    life.end()
            await asyncio.sleep(_LOOK_S)
