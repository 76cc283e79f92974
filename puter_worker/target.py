"""A target: one AWS account and region, reached with one profile, as workers see it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from puter_client.contract.os_image import Os
from puter_worker.absences import Absences
from puter_worker.clock import Clock
from puter_worker.ec2 import groups, images, instances, keypairs
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.groups import SecurityGroup, Subnet
from puter_worker.ec2.images import Image
from puter_worker.ec2.instances import Instance
from puter_worker.ec2.keypairs import KeyPair
from puter_worker.ec2.own_resources import OwnResources
from puter_worker.ec2.tags import INTENT, decode_manifest, intent_of
from puter_worker.errors import About, Ec2Error, StageError
from puter_worker.instance_types import InstanceTypes
from puter_worker.metrics import NO_METRICS, Metrics
from puter_worker.ownkey import OwnKey, own_key
from puter_worker.pacer import Pacer
from puter_worker.policy import Rules
from puter_worker.timings import Timings

# What the names of cached answers begin with.
_CACHED = {
    About.IMAGE: ("image", "newest"),
    About.KEY_PAIR: ("key", "own key"),
    About.GROUP: ("group",),
}

_MOST_CACHED = 2_000

T = TypeVar("T")


class TargetId(msgspec.Struct, frozen=True, order=True):
    """Which target.

    Attributes:
        account: AWS account id, twelve digits.
        region: AWS region.
        profile: the AWS profile that it is reached with; "" is the default credentials.
    """

    account: str
    region: str
    profile: str = ""

    def __str__(self) -> str:
        return f"{self.account}:{self.region}:{self.profile}"

    @classmethod
    def parse(cls, text: str) -> TargetId:
        """The id that `str()` wrote."""
        account, region, profile = text.split(":", 2)
        return cls(account, region, profile)


class Target:
    """What stages use of one target: cached answers, look-ups of many keys, paced calls.

    Attributes:
        target_id: which target.
        caller: makes the calls.
        pacer: holds them to EC2's rates.
        absences: what looks at this target did not show.
        metrics: counts what is done there.
        instance_types: what is known of them.
        rules: what namespaces may request.
    """

    def __init__(
        self,
        target_id: TargetId,
        caller: Caller,
        pacer: Pacer,
        timings: Timings,
        *,
        clock: Clock,
        private_keys: Path | None = None,
        metrics: Metrics = NO_METRICS,
        rules: Rules | None = None,
    ) -> None:
        """`private_keys`: see Targets."""
        self.target_id = target_id
        self.rules = rules or Rules()
        self._timings = timings
        self._private_keys = private_keys
        self.caller = caller
        self.pacer = pacer
        self.metrics = metrics
        self.instance_types = InstanceTypes(caller, clock=clock, timings=timings)
        self.absences = Absences(clock, over_s=timings.second_look_s)
        self._cache: dict[tuple[Hashable, ...], tuple[float, asyncio.Future[Any]]] = {}

    def __str__(self) -> str:
        return str(self.target_id)

    # -- instances ----------------------------------------------------------------------------------------------

    async def look_up(self, namespace: str, tags: Sequence[str]) -> dict[str, list[Instance]]:
        """The instances that EC2 shows for some keys, in any state, by tag. [] is unknown, not absent: EC2 may lag.

        A living machine of a Spot launch of which EC2 does not show all machines stands under all keys that it may
        belong to (see `Instance.is_unassigned`).
        """
        labelled, unlabelled = await asyncio.gather(
            instances.find_by_tags(self.caller, namespace, tags),
            self._cached(
                ("unlabelled", namespace),
                lambda: self._find_unlabelled(namespace),
                # Such an instance that Redis does not know belongs to another Redis, or is older than the last loss
                # of this Redis's data: it need not be looked for with every key.
                for_s=self._timings.unlabelled_cache_s,
            ),
        )
        found: dict[str, dict[str, Instance]] = {tag: {} for tag in tags}
        unassigned: list[Instance] = []
        for instance in [*labelled, *unlabelled]:
            name = instance.name
            if name is not None and name[0].namespace == namespace and name[0].tag in found:
                found[name[0].tag][instance.instance_id] = instance
            elif instance.is_unassigned and instance.state in instances.LIVE_STATES:
                unassigned.append(instance)
        for instance in unassigned:
            for tag, _ in decode_manifest(instance.tags) or ():
                if tag in found and not any(i.tags.get(INTENT) == instance.tags.get(INTENT) and not i.is_unassigned
                                            for i in found[tag].values()):  # fmt: skip
                    found[tag][instance.instance_id] = instance
        return {tag: list(by_id.values()) for tag, by_id in found.items()}

    async def _find_unlabelled(self, namespace: str) -> list[Instance]:
        return await self.assigned(await instances.find_unlabelled(self.caller, namespace))

    async def assigned(self, shown: Sequence[Instance]) -> list[Instance]:
        """The same instances, those of Spot launches with their places if EC2 shows all machines of their launch."""
        intents = {intent for one in shown if one.is_unassigned and (intent := intent_of(one.tags))}
        placed: dict[str, Instance] = {}
        launches: dict[str | None, list[Instance]] = defaultdict(list)
        for instance in await instances.find_by_intents(self.caller, sorted(intents)):
            launches[intent_of(instance.tags)].append(instance)
        for launched in launches.values():
            if len(launched) == len(decode_manifest(launched[0].tags) or ()):
                placed |= {one.instance_id: one for one in instances.with_places(launched)}
        return [placed.get(one.instance_id, one) if one.is_unassigned else one for one in shown]

    async def describe(self, ids: Sequence[str]) -> dict[str, Instance]:
        """Instances by their ids; if one is missing, its state is unknown: it is not known to be absent."""
        return await instances.describe_by_ids(self.caller, ids) if ids else {}

    # -- what launches share ------------------------------------------------------------------------------------

    async def image(self, *, ami: str | None, os: Os, instance_type: str) -> Image:
        """The image to boot: the AMI that the request names, else the newest of the OS for the type."""
        if ami is not None:
            return await self._cached(("image", ami), lambda: images.describe_image(self.caller, ami))
        kind = await self.instance_types.of(instance_type)
        image = await self._cached(
            ("newest", os, kind.architecture), lambda: images.latest_image(self.caller, os, kind.architecture)
        )
        if os is Os.AL2023_GPU and not kind.has_nvidia_gpu:
            notice = f"{instance_type} has no NVIDIA GPU: the driver of {os.value} is of no use there"
            return msgspec.structs.replace(image, notice=notice)
        return image

    async def check_fit(self, image: Image, instance_types: Sequence[str]) -> None:
        """Check that an image that a request names is for the processors of these types.

        Without the permission to describe types nothing is checked: EC2 refuses what does not fit.

        Raises:
            StageError: UnusableImage if it is not; see InstanceTypes.of.
        """
        for name in instance_types if image.architecture else ():
            try:
                kind = await self.instance_types.of(name)
            except Ec2Error as error:
                if error.code != "UnauthorizedOperation":
                    raise
                return
            images.check_fit(image, kind)

    async def ssh_users(self, machines: Iterable[Instance]) -> dict[str, str]:
        """The users of the images of machines that were found, by instance id; one is missing if it is not known."""
        found = {one.instance_id: one.image_id for one in machines if one.image_id}
        ids = sorted(set(found.values()))
        users = dict(zip(ids, await asyncio.gather(*(self._user_of(image_id) for image_id in ids)), strict=True))
        return {instance_id: user for instance_id, image_id in found.items() if (user := users[image_id])}

    async def _user_of(self, image_id: str) -> str | None:
        try:
            image = await self._cached(("image", image_id), lambda: images.describe_image(self.caller, image_id))
        except StageError:
            return None  # a machine outlives its image
        return image.ssh_user if image.architecture else None

    async def vcpus(self, name: str) -> int | None:
        """How many vCPUs a machine of a type has; None: the worker's role may not describe types.

        Raises:
            StageError: see InstanceTypes.of.
        """
        try:
            return (await self.instance_types.of(name)).vcpus
        except Ec2Error as error:
            if error.code != "UnauthorizedOperation":
                raise
            return None

    async def subnet(self, subnet_id: str) -> Subnet:
        """A subnet, with its VPC and zone."""
        return await self._cached(("subnet", subnet_id), lambda: groups.vpc_of_subnet(self.caller, subnet_id))

    async def zones(self) -> list[str]:
        """The zones in which a launch needs no subnet: those of the default VPC's subnets."""
        subnets = await self._cached(("zones",), lambda: groups.default_subnets(self.caller))
        return sorted({subnet.availability_zone for subnet in subnets})

    async def key_pair(self, key_name: str | None, public_key: str | None, namespace: str) -> KeyPair:
        """The key pair to launch a namespace's machines with; it is imported if it is missing."""
        own = self._own(namespace)
        return await self._cached(
            ("key", own, key_name, public_key),
            lambda: keypairs.ensure_key_pair(self.caller, key_name=key_name, public_key=public_key, own=own),
        )

    async def own_key(self) -> OwnKey | None:
        """The key that EC2 made for clients of this host; None if clients use their own keys."""
        folder = self._private_keys
        if folder is None:
            return None
        return await self._cached(("own key",), lambda: own_key(self.caller, folder))

    async def group(
        self, name: str | None, vpc_id: str | None, cidrs: tuple[str, ...], namespace: str
    ) -> SecurityGroup:
        """The security group that lets ssh in from these addresses; it is made and opened if needed.

        `name`: None is one of those that Puter makes for the namespace.
        """
        own = self._own(namespace)
        return await self._cached(
            ("group", own, name, vpc_id, cidrs),
            lambda: groups.ensure_group(
                self.caller,
                name=name,
                vpc_id=vpc_id,
                cidrs=cidrs,
                own=own,
                pauses=groups.Pauses(self._timings.group_seen_s),
            ),
        )

    def _own(self, namespace: str) -> OwnResources:
        """What is made for a namespace: those of a local engine are one person's, and share it."""
        return OwnResources(namespace if self._private_keys is None else None)

    def forget(self, about: About) -> None:
        """Drop the cached images, key pairs or security groups: one of them no longer exists."""
        kinds = {kind for part, of_it in _CACHED.items() if part in about for kind in of_it}
        self._cache = {name: entry for name, entry in self._cache.items() if name[0] not in kinds}

    async def _cached(
        self, name: tuple[Hashable, ...], make: Callable[[], Awaitable[T]], *, for_s: float | None = None
    ) -> T:
        """One answer for all calls within `for_s` (None: `target_cache_s`); failures are not cached."""
        loop = asyncio.get_running_loop()
        until, future = self._cache.get(name, (0.0, None))
        if future is None or loop.time() > until:
            if len(self._cache) >= _MOST_CACHED:
                self._drop_old(loop.time())
            future = asyncio.ensure_future(make())
            self._cache[name] = (loop.time() + (self._timings.target_cache_s if for_s is None else for_s), future)
            future.add_done_callback(partial(self._drop_failure, name))
        return await asyncio.shield(future)

    def _drop_old(self, now: float) -> None:
        """Make room: requests name what they like, and each name is an entry."""
        self._cache = {name: entry for name, entry in self._cache.items() if now <= entry[0]}
        for name in list(self._cache)[: max(0, len(self._cache) - _MOST_CACHED // 2)]:
            del self._cache[name]

    def _drop_failure(self, name: tuple[Hashable, ...], future: asyncio.Future[Any]) -> None:
        failed = future.cancelled() or future.exception() is not None
        if failed and self._cache.get(name, (0.0, None))[1] is future:
            del self._cache[name]
