"""The simulator's own side door, `/_sim/…`: what a test does that no call of EC2's can do.

| path | does |
|---|---|
| GET summary | counts, states, buckets, defects |
| GET config, PUT config, PATCH config | behaviour: read, replace, change some fields |
| GET ledger?since=N&action=A | calls |
| GET instances?user_data=1 | the truth |
| POST shutdown/ID | the instance shuts itself down |
| POST end/ID `{code, message}` | AWS ends the instance |
| POST console/ID (bytes) | the instance writes on its console |
| POST post-console/ID | EC2 posts its console: from now on only what is posted so can be read without `Latest` |
| POST advance `{seconds}` | time goes forwards |
| POST reset `{config}` | everything is forgotten; null keeps the behaviour |
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from tests.ec2sim.config import SimConfig
from tests.ec2sim.errors import Ec2Error
from tests.ec2sim.reports import Summary, see
from tests.ec2sim.world import World

Handler = Callable[[web.Request], Awaitable[web.Response]]


class End(msgspec.Struct, frozen=True):
    """Why AWS ends an instance, as its StateReason says."""

    code: str = "Server.SpotInstanceTermination"
    message: str = "Server.SpotInstanceTermination: Spot instance termination"


class Advance(msgspec.Struct, frozen=True):
    """By how many seconds."""

    seconds: float


class Reset(msgspec.Struct, frozen=True):
    """The behaviour from then on."""

    config: SimConfig | None = None


class Control:
    """Answers at the side door of one world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def add_to(self, app: web.Application) -> None:
        """Puts the routes up."""
        router = app.router
        router.add_get("/_sim/summary", _told(self.summary))
        router.add_get("/_sim/config", _told(self.read_config))
        router.add_put("/_sim/config", _told(self.put_config))
        router.add_patch("/_sim/config", _told(self.patch_config))
        router.add_get("/_sim/ledger", _told(self.ledger))
        router.add_get("/_sim/instances", _told(self.instances))
        router.add_post("/_sim/shutdown/{id}", _told(self.shutdown))
        router.add_post("/_sim/end/{id}", _told(self.end))
        router.add_post("/_sim/console/{id}", _told(self.console))
        router.add_post("/_sim/post-console/{id}", _told(self.post_console))
        router.add_post("/_sim/advance", _told(self.advance))
        router.add_post("/_sim/reset", _told(self.reset))

    async def summary(self, _: web.Request) -> Summary:
        world = self._world
        return Summary(
            pid=os.getpid(),
            now=world.dials.now(),
            calls=len(world.ledger.entries),
            counts=world.ledger.counts(),
            states=Counter(one.state.value for one in world.instances()),
            buckets={f"{account}/{name}": r.throttle.levels() for (account, name), r in world.regions.items()},
            bugs=world.bugs,
        )

    async def read_config(self, _: web.Request) -> SimConfig:
        return self._world.dials.config

    async def put_config(self, request: web.Request) -> SimConfig:
        self._world.configure(msgspec.json.decode(await request.read(), type=SimConfig))
        return self._world.dials.config

    async def patch_config(self, request: web.Request) -> SimConfig:
        changes = msgspec.json.decode(await request.read(), type=dict[str, Any])
        whole = {**msgspec.to_builtins(self._world.dials.config), **changes}
        self._world.configure(msgspec.convert(whole, SimConfig), new_faults="faults" in changes)
        return self._world.dials.config

    async def ledger(self, request: web.Request) -> object:
        return self._world.ledger.since(int(request.query.get("since", "0")), request.query.get("action"))

    async def instances(self, request: web.Request) -> object:
        with_data = request.query.get("user_data") == "1"
        return [see(one, user_data=with_data) for one in self._world.instances()]

    async def shutdown(self, request: web.Request) -> object:
        region, one = self._world.find(request.match_info["id"])
        region.roster.shut_down(one)
        region.roster.settle()
        return see(one)

    async def end(self, request: web.Request) -> object:
        region, one = self._world.find(request.match_info["id"])
        why = msgspec.json.decode(await request.read() or b"{}", type=End)
        region.roster.end(one, (why.code, why.message))
        region.roster.settle()
        return see(one)

    async def console(self, request: web.Request) -> object:
        _, one = self._world.find(request.match_info["id"])
        one.console.append((self._world.dials.now(), await request.read()))
        return see(one)

    async def post_console(self, request: web.Request) -> object:
        _, one = self._world.find(request.match_info["id"])
        one.posted = len(one.console)
        return see(one)

    async def advance(self, request: web.Request) -> float:
        self._world.dials.clock.advance(msgspec.json.decode(await request.read(), type=Advance).seconds)
        return self._world.dials.now()

    async def reset(self, request: web.Request) -> SimConfig:
        wanted = msgspec.json.decode(await request.read() or b"{}", type=Reset).config
        self._world.reset(wanted or self._world.dials.config)
        return self._world.dials.config


def _told(answer: Callable[[web.Request], Awaitable[object]]) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        try:
            body = msgspec.json.encode(await answer(request))
        except (msgspec.MsgspecError, ValueError) as error:
            return web.Response(status=400, text=str(error))
        except Ec2Error as error:
            return web.Response(status=409 if error.status == 400 else error.status, text=str(error))
        return web.Response(body=body, content_type="application/json")

    return handle
