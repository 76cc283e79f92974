"""What the simulator tells a test: the truth, whatever a Describe would show."""

from __future__ import annotations

import msgspec

from tests.ec2sim.instance import HOLDING, Instance, State


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """An instance as it really is.

    Attributes:
        id: `i-…`.
        account: owner.
        region: it runs in.
        zone: it runs in.
        vpc_id: of its subnet.
        subnet_id: of its subnet.
        state: as EC2 names it.
        state_reason: code of why it ended.
        instance_type: EC2's name.
        image_id: that it booted.
        key_name: of its key pair.
        group_ids: of its security groups.
        reservation_id: of its launch.
        launch_index: within its launch.
        client_token: of its launch.
        tags: that it was ever given.
        shown_tags: that a Describe shows now.
        volume_tags: of its root volume.
        launched_at: seconds since 1970.
        ended_at: when it was terminated.
        shutdown_behavior: stop or terminate.
        spot: whether it is one.
        instance_profile: name.
        http_tokens: required or optional.
        metadata_tags: whether its tags are in its metadata.
        root_gib: size of its root volume.
        private_ip: its address within.
        public_ip: its address without.
        public_dns: its name without; empty while it has no such address.
        user_data: decoded; empty unless requested.
    """

    id: str
    account: str
    region: str
    zone: str
    vpc_id: str
    subnet_id: str
    state: str
    state_reason: str | None
    instance_type: str
    image_id: str
    key_name: str | None
    group_ids: tuple[str, ...]
    reservation_id: str
    launch_index: int
    client_token: str
    tags: dict[str, str]
    shown_tags: dict[str, str]
    volume_tags: dict[str, str]
    launched_at: float
    ended_at: float | None
    shutdown_behavior: str
    spot: bool
    instance_profile: str | None
    http_tokens: str
    metadata_tags: bool
    root_gib: int
    private_ip: str
    public_ip: str | None
    public_dns: str
    user_data: bytes = b""

    @property
    def live(self) -> bool:
        """Whether it is pending or running."""
        return self.state in {State.PENDING, State.RUNNING}

    @property
    def holding(self) -> bool:
        """Whether it still holds capacity."""
        return self.state in HOLDING


def see(one: Instance, *, user_data: bool = False) -> Seen:
    """The truth of an instance."""
    options = one.options
    return Seen(
        id=one.id,
        account=one.account,
        region=one.region,
        zone=one.subnet.zone.name,
        vpc_id=one.subnet.vpc.id,
        subnet_id=one.subnet.id,
        state=one.state.value,
        state_reason=one.state_reason[0] if one.state_reason else None,
        instance_type=options.type.name,
        image_id=options.image.id,
        key_name=options.key_name,
        group_ids=tuple(group.id for group in one.groups),
        reservation_id=one.reservation_id,
        launch_index=one.launch_index,
        client_token=options.client_token,
        tags=one.tags,
        shown_tags=one.shown_tags,
        volume_tags=one.volume_tags,
        launched_at=one.launched_at,
        ended_at=one.ended_at,
        shutdown_behavior=one.shutdown_behavior,
        spot=options.spot,
        instance_profile=options.instance_profile,
        http_tokens=options.http_tokens,
        metadata_tags=options.metadata_tags,
        root_gib=options.root_gib,
        private_ip=one.private_ip,
        public_ip=one.public_ip,
        public_dns=one.public_dns,
        user_data=options.user_data if user_data else b"",
    )


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The simulator at a glance.

    Attributes:
        pid: of its process.
        now: its time.
        calls: so far.
        counts: calls by action and code.
        states: instances by state.
        buckets: tokens left by `account/region` and bucket.
        bugs: tracebacks of its own defects.
    """

    pid: int
    now: float
    calls: int
    counts: dict[str, dict[str, int]]
    states: dict[str, int]
    buckets: dict[str, dict[str, float]]
    bugs: list[str]
