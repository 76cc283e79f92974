"""One instance's machine from its first boot to its end, and what EC2 does meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import msgspec
from aiohttp import web

from tests.ec2sim.client import ControlClient
from tests.ec2sim.reports import Seen
from tests.machine import metadata
from tests.machine.image import Image, Packages
from tests.machine.machine import Machine
from tests.machine.metadata import MetadataService
from tests.machine.netns import NetworkNamespace

# EC2 switches off an instance that has not shut down in time; it does not say after how long.
_SHUTDOWN_S = 60.0


class Life:
    """The life of an instance.

    Attributes:
        machine: that it is.
        metadata: what answers there.
    """

    def __init__(
        self, instance_id: str, sim: ControlClient, root: Path, image: Image, packages: Packages, *, answers: bool
    ) -> None:
        """`answers`: whether the metadata service does; nothing else is in its network."""
        self._answers = answers
        self._id = instance_id
        self._sim = sim
        self._network = NetworkNamespace(root, metadata.ADDRESS, metadata.PORT)
        self._told = 0
        self._ending: asyncio.Task[None] | None = None
        self.machine = Machine(instance_id, root, self._network.path, image, packages)
        self.metadata = MetadataService(self.seen)
        self.task = asyncio.create_task(self._run())

    async def seen(self) -> Seen:
        """The instance as it really is."""
        return next(one for one in await self._sim.instances(user_data=True) if one.id == self._id)

    def end(self) -> None:
        """EC2 ends the instance: the machine is asked to shut down, and switched off if it does not."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())

    async def close(self) -> None:
        """Remove all that is left of it."""
        tasks = [task for task in (self.task, self._ending) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.machine.close()
        self._network.close()

    async def _run(self) -> None:
        server = web.AppRunner(self.metadata.app(), access_log=None, shutdown_timeout=0.1)
        try:
            await server.setup()
            if self._answers:
                await web.SockSite(server, self._network.listener).start()
            await self._sim.post_console(self._id)
            _seed(self.machine.disk, await self.seen())
            again = True
            while again:
                await self.machine.boot()
                await self._tell()
                again = await self.machine.halted()
            if (await self.seen()).state == "running":
                await self._sim.shut_down(self._id)
        finally:
            self.machine.over.set()
            await server.cleanup()

    async def _tell(self) -> None:
        """Bring the console to EC2 until the machine halts; EC2 posts it after the boot and at the end."""
        posted = False
        while True:
            silent = self.machine.silent
            ready = not posted and self.machine.ready
            if written := bytes(self.machine.console[self._told :]):
                await self._sim.write_console(self._id, written)
                self._told += len(written)
            if silent or ready:
                await self._sim.post_console(self._id)
                posted = True
            if silent:
                return
            await self.machine.news(0.2)

    async def _end(self) -> None:
        self.machine.press_power_button()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.task), _SHUTDOWN_S)
        self.machine.cut_power()


def _seed(disk: Path, seen: Seen) -> None:
    """Give cloud-init what it takes from the metadata service on EC2.

    In a container it does not see that it is on EC2, and so would ask that service for no token. What becomes of user
    data, by launch index too, is the same from here on.
    """
    folder = disk / "var/lib/cloud/seed/nocloud"
    folder.mkdir(parents=True)
    host = f"ip-{seen.private_ip.replace('.', '-')}"
    about = {"instance-id": seen.id, "launch-index": seen.launch_index, "local-hostname": host}
    (folder / "meta-data").write_bytes(msgspec.json.encode(about))
    (folder / "user-data").write_bytes(seen.user_data)
