"""One story on moto and on the simulated EC2: what Puter tells of it is the same, and so is what EC2 holds afterwards.

The two were written apart from each other, by different people from the same documentation. What must differ (ids,
addresses, times) is numbered in the order in which it is told, so that what names the same thing twice still has to.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from puter_client.client import MachineRequest
from puter_client.contract.outcome import Outcome
from puter_client.contract.record import Event
from puter_client.contract.request import Origin
from puter_client.contract.spec import Spec
from puter_client.view import View, WaitFor
from puter_worker.ec2 import instances as ec2
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.instances import run_instances
from puter_worker.ec2.tags import MANIFEST, decode_manifest
from puter_worker.rates import Rates
from tests.ec2sim.client import ControlClient
from tests.integration.moto_server import point_at, reset_moto
from tests.integration.redis_servers import RedisServer
from tests.integration.sim_workshop import CALM, SPEED, SWIFT, SimWorkshop, eventually, one_call_at_a_time, sim_url
from tests.integration.workshop import PATIENCE_S, Workshop, spec

__all__ = ["sim_url"]

OWN = "#cloud-config\npackages: [git]\n"
SWEEP: dict[str, Spec] = {
    "sweep-0": spec(user_data=OWN, run="render 0", env={"SEED": "0"}),
    "sweep-1": spec(user_data=OWN, run="render 1", env={"SEED": "1"}),
    "sweep-2": spec(user_data=OWN, run="render 2"),
    "sweep-3": spec(user_data=OWN),
    "sweep-4": spec(user_data=OWN, run="render 4"),
    "sweep-5": spec(user_data=OWN),
}
TAGS = ("one", "wrong", *SWEEP)


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a story came to, with what must differ numbered.

    Attributes:
        answers: what a command showed after each step: JSON fields and the batch's row.
        records: by tag, as they stand at the end.
        timelines: by tag, without request ids.
        machines: what EC2 holds of each, by tag and generation.
        door: key pairs and security groups.
        launches: how many machines each RunInstances call launched.
    """

    answers: dict[str, list[Any]]
    records: dict[str, Any]
    timelines: dict[str, list[Any]]
    machines: dict[str, Any]
    door: dict[str, Any]
    launches: list[int]


class Numbered:
    """Replaces what must differ by its kind and a number."""

    _ID = re.compile(r"\b(i|ami|vpc|subnet|sg|key|r)-[0-9a-f]{8,17}\b")
    _ADDRESS = re.compile(r"\b\d{1,3}([.-])\d{1,3}\1\d{1,3}\1\d{1,3}\b(?!/)")
    # Which zone a machine comes to be in is EC2's choice, and moto gives all calls the same id.
    _ANY = frozenset({"availability_zone", "request_id"})
    _BY_NAME = frozenset({"intent", "puter:intent", "launched_by", "batch", "batch_id", "puter:batch"})

    def __init__(self) -> None:
        self._numbers: dict[str, str] = {}
        self._next = count(1)

    def __call__(self, value: Any, name: str = "") -> Any:
        """The value with everything in it replaced; `name` is the field's."""
        if isinstance(value, dict):
            return {key: self(one, key) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self(one, name) for one in value]
        if value is not None and (isinstance(value, float) or name.endswith(("_at", "puter:expires-at"))):
            return "<time>"
        if not isinstance(value, str):
            return value
        if name in self._ANY:
            return f"<{name}>"
        if name in self._BY_NAME:
            kind = "intent" if name == "launched_by" else name.removeprefix("puter:").removesuffix("_id")
            return self._number(kind, value)
        text = self._ID.sub(lambda match: self._number(match[1], match[0]), value)
        return self._ADDRESS.sub(lambda match: self._number("address", match[0].replace("-", ".")), text)

    def _number(self, kind: str, value: str) -> str:
        if value not in self._numbers:
            self._numbers[value] = f"<{kind} {next(self._next)}>"
        return self._numbers[value]


async def story(shop: Workshop) -> Told:
    """The same requests and the same fates, whatever stands for EC2."""
    shop.timings, shop.rates = SWIFT, Rates().faster(SPEED)
    one_call_at_a_time(shop)
    # However slow this host is, the batch is launched as one.
    shop.hurry(batch_longest_s=PATIENCE_S)
    answers: dict[str, list[View]] = {}
    async with shop.working(pace=True, max_group=100):
        answers["a machine"] = await shop.request("one")
        answers["the same again"] = await shop.request("one")
        answers["another one of that name"] = await shop.request("one", instance_type="t3.small", run="make")
        answers["an image that is not there"] = await shop.request("wrong", ami="ami-00000000000000bad")
        asked = [MachineRequest(tag, one) for tag, one in SWEEP.items()]
        batch = await shop.client.submit(asked, origin=Origin.SUBMIT)
        await shop.client.wait(batch_id=batch, tags=list(SWEEP), timeout_s=PATIENCE_S)
        await eventually("the group bears its tags", lambda: labelled(shop, *SWEEP))
        _, answers["a batch"] = await shop.client.batch(batch)
        (first,) = answers["a machine"]
        assert first.record
        shop.ec2.terminate_instances(InstanceIds=[first.record.instance_id])
        answers["its end"] = await shop.client.wait(tags=["one"], wait=WaitFor.TERMINATED, timeout_s=PATIENCE_S)
        answers["the next"] = await shop.request("one")
        views = await shop.client.views(TAGS)
        events = {tag: await shop.client.events(tag) for tag in TAGS}
    numbered = Numbered()
    machines, launches = held(shop)
    return Told(
        answers=numbered({step: [answer(view) for view in views] for step, views in answers.items()}),
        records=numbered({view.tag: msgspec.to_builtins(view.record) for view in views}),
        timelines=numbered({tag: timeline(events[tag]) for tag in TAGS}),
        machines=numbered(machines),
        door=numbered(door(shop)),
        launches=launches,
    )


async def labelled(shop: Workshop, *tags: str) -> bool:
    """Whether each machine bears its own tags."""
    return all(view.record and view.record.labelled for view in await shop.client.views(tags))


def answer(view: View) -> dict[str, Any]:
    """What a command shows of a tag, and the row of the batch."""
    return view.to_json() | {"row": msgspec.to_builtins(view.row)}


def timeline(events: list[Event]) -> list[Any]:
    """A key's events; without those that only tell how long something took or what came first by chance."""
    in_order = [one for one in events if one.event not in {"launch.delayed", "instance.labelled"}]
    labelled = [one.event for one in events if one.event == "instance.labelled"]
    return [*(msgspec.to_builtins(one) for one in in_order), *labelled]


def held(shop: Workshop) -> tuple[dict[str, Any], list[int]]:
    """What EC2 holds of each machine, by tag and generation; and how many machines each call launched."""
    reservations = shop.ec2.describe_instances()["Reservations"]
    machines: dict[str, Any] = {}
    for one in (instance for reservation in reservations for instance in reservation["Instances"]):
        tags = {tag["Key"]: tag["Value"] for tag in one.get("Tags", [])}
        machines[f"{tags['puter:tag']} {tags['puter:generation']}"] = {
            "id": one["InstanceId"],
            "state": one["State"]["Name"],
            "type": one["InstanceType"],
            "image": one["ImageId"],
            "key": one["KeyName"],
            "group": sorted(decode_manifest(tags) or []),  # in it keys stand as they came
            "tags": {name: value for name, value in sorted(tags.items()) if not name.startswith(MANIFEST)},
        }
    return dict(sorted(machines.items())), sorted(len(reservation["Instances"]) for reservation in reservations)


def door(shop: Workshop) -> dict[str, Any]:
    """Who may reach the machines."""
    pairs = shop.ec2.describe_key_pairs(IncludePublicKey=True)["KeyPairs"]
    groups = shop.ec2.describe_security_groups(Filters=[{"Name": "tag:puter:managed", "Values": ["true"]}])
    return {
        "key pairs": [(pair["KeyName"], pair["PublicKey"].split()[:2], pair["Tags"]) for pair in pairs],
        "groups": [
            (
                group["GroupName"],
                group["Description"],
                group["Tags"],
                [
                    (rule["IpProtocol"], rule["FromPort"], rule["ToPort"], rule["IpRanges"])
                    for rule in group["IpPermissions"]
                ],
            )
            for group in groups["SecurityGroups"]
        ],
    }


async def on_moto(server: RedisServer, url: str) -> Told:
    """The story on moto."""
    shop = Workshop(server, url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ec2, "run_instances", as_many_as_wanted)
        try:
            return await story(shop)
        finally:
            await shop.client.aclose()
            shop.ec2.close()


async def as_many_as_wanted(caller: Caller, arguments: Mapping[str, Any]) -> Any:
    """A launch, told to moto so that it launches MaxCount machines: by itself it always launches MinCount."""
    return await run_instances(caller, {**arguments, "MinCount": arguments["MaxCount"]})


async def on_the_simulator(server: RedisServer, url: str) -> Told:
    """The story on the simulated EC2."""
    async with ControlClient(url) as sim:
        await sim.reset(CALM)
        shop = SimWorkshop(server, url, sim)
        try:
            told = await story(shop)
        finally:
            await shop.aclose()
        assert (await sim.summary()).bugs == []
        return told


@pytest.fixture(scope="module")
def both(
    valkey_server: RedisServer, moto_url: str, sim_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Told, Told]]:
    """What the story came to on moto, and on the simulated EC2."""
    with pytest.MonkeyPatch.context() as patch:

        def tale(tell: Callable[[RedisServer, str], Awaitable[Told]], url: str, folder: Path) -> Told:
            with valkey_server.client() as client:
                client.flushall()
            point_at(url, patch, folder)

            async def run() -> Told:
                return await tell(valkey_server, url)

            return asyncio.run(run())

        reset_moto(moto_url)
        folder = tmp_path_factory.mktemp("both")
        yield tale(on_moto, moto_url, folder), tale(on_the_simulator, sim_url, folder)


def test_the_story_comes_out_as_it_should(both: tuple[Told, Told]) -> None:
    for told in both:
        outcomes = {step: [one["outcome"] for one in shown] for step, shown in told.answers.items()}
        assert outcomes == {
            "a machine": [Outcome.CREATED],
            "the same again": [Outcome.EXISTING],
            "another one of that name": [Outcome.CONFLICT],
            "an image that is not there": [Outcome.CREATED],
            "a batch": [Outcome.CREATED] * len(SWEEP),
            "its end": [None],
            "the next": [Outcome.CREATED],
        }
        assert told.launches == [1, 1, len(SWEEP)]
        assert told.records["wrong"]["error"]["code"] == "InvalidAMIID.NotFound"
        assert told.records["one"]["generation"] == 2


def test_every_step_is_answered_the_same(both: tuple[Told, Told]) -> None:
    moto, sim = both
    assert moto.answers == sim.answers


@pytest.mark.parametrize("tag", TAGS)
def test_the_records_are_the_same(both: tuple[Told, Told], tag: str) -> None:
    moto, sim = both
    assert moto.records[tag] == sim.records[tag]


@pytest.mark.parametrize("tag", TAGS)
def test_the_timelines_are_the_same(both: tuple[Told, Told], tag: str) -> None:
    moto, sim = both
    assert moto.timelines[tag] == sim.timelines[tag]


def test_ec2_holds_the_same_machines_with_the_same_tags(both: tuple[Told, Told]) -> None:
    moto, sim = both
    assert moto.machines == sim.machines


def test_the_same_may_reach_them(both: tuple[Told, Told]) -> None:
    moto, sim = both
    assert moto.door == sim.door
