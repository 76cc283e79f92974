"""Composes, from the keys of one launch, the exact arguments of its RunInstances call, frozen before it is sent.

The image, key pair and security group that it reads or makes in EC2 are the same for every worker, so it may run twice.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping

import msgspec

from puter_client.contract.spec import Spec
from puter_client.policy.rule import Asked
from puter_client.policy.rule import Image as Owner
from puter_worker.ec2 import tags
from puter_worker.ec2.arguments import RunCall, run_arguments
from puter_worker.ec2.images import Image
from puter_worker.ec2.own_tags import why_not_read
from puter_worker.ec2.userdata import Boot, Machine, compose
from puter_worker.errors import PolicyRefused
from puter_worker.stages.plan import Unit, Waiting
from puter_worker.store.intent import Intent, IntentMember, Place
from puter_worker.target import Target

_json = msgspec.json.Encoder(order="deterministic")


class Prepared(msgspec.Struct, frozen=True):
    """A launch that is ready to be stored.

    Attributes:
        intent: the intent to send.
        notices: what the owners of its machines should know, in plain words.
        ssh_user: the machines' user for ssh and the workload.
        vcpus: of each machine; None: not known.
        private_key_path: where this host keeps the private key, if EC2 made the key pair for it.
    """

    intent: Intent
    notices: tuple[str, ...]
    ssh_user: str
    private_key_path: str | None
    vcpus: int | None = None


async def prepare(target: Target, unit: Unit, place: Place, now: float) -> Prepared:
    """The intent that launches a unit in a place.

    Raises:
        PolicyRefused: the workers' policy does not allow the launch.
        StageError: the image, key pair, subnet or group is not available as requested.
        UserDataTooLarge, ManifestTooLarge: a group must be launched in smaller groups; for a single key it is final.
    """
    spec = unit[0].spec
    image = await target.image(ami=spec.ami, os=spec.os, instance_type=place.instance_type)
    if spec.ami is not None:
        await target.check_fit(image, (spec.instance_type, *spec.instance_types))
    vcpus = await target.vcpus(place.instance_type)
    check_policy(target, unit, image, vcpus)
    ssh_user = spec.ssh_user or image.ssh_user
    subnet = await target.subnet(place.subnet) if place.subnet else None
    namespace = unit[0].record.namespace
    bare = spec.key_name is None and spec.public_key is None
    own = await target.own_key() if bare else None
    key_pair = own.pair if own else await target.key_pair(spec.key_name, spec.public_key, namespace)
    group = await target.group(spec.security_group_name, subnet.vpc_id if subnet else None, spec.ssh_from, namespace)
    intent_id = secrets.token_hex(8)
    single = unit[0] if len(unit) == 1 else None
    by_tag = place.spot and single is None
    shared = _tags(unit, intent_id, spec, now, by_tag=by_tag)
    launch = RunCall(
        spec=spec,
        image=image,
        instance_type=place.instance_type,
        key_name=key_pair.name,
        group_id=group.group_id,
        subnet_id=place.subnet,
        zone=place.zone,
        spot=place.spot,
        tags=shared,
        user_data=_user_data(unit, spec, shared, ssh_user, by_tag=by_tag),
        client_token=_token(target, single) if single else f"{tags.LAUNCH_PREFIX}{intent_id}",
        # All Spot machines or none: then their places follow from their ids (see `instances.with_places`).
        min_count=len(unit) if by_tag else 1,
        max_count=len(unit),
    )
    intent = Intent(
        intent_id=intent_id,
        target=str(target),
        namespace=namespace,
        members=tuple(IntentMember(w.record.tag, w.record.request_number, w.record.generation) for w in unit),
        place=place,
        disk=spec.disk,
        arguments=msgspec.Raw(_json.encode(run_arguments(launch))),
        made_at=now,
    )
    user_notice = None if spec.ssh_user else image.user_notice
    unread = why_not_read(place.instance_type, shared)
    no_orders = unread and f"{unread}: `puter stop` and `puter extend` give it orders by ssh, with a command to paste"
    notices = (no_orders, image.notice, user_notice, None if own else key_pair.notice, group.notice)
    return Prepared(
        intent,
        tuple(notice for notice in notices if notice),
        ssh_user,
        own.private_key_path if own else None,
        vcpus,
    )


def check_policy(target: Target, unit: Unit, image: Image, vcpus: int | None) -> None:
    """Check a launch against the workers' policy, now that its target and image are known.

    Raises:
        PolicyRefused: the policy does not allow it; its members agree in all that rules ask, but for what is no
            machine's matter.
    """
    spec, record = unit[0].spec, unit[0].record
    allowed = target.rules.of(record.namespace)
    if allowed is None:
        return
    target_id = target.target_id
    owner = Owner(image.owner_id, image.owner_alias, own=image.owner_id == target_id.account)
    asked = Asked(spec=spec, profile=target_id.profile, region=target_id.region, image=owner, vcpus=vcpus)
    if refused := allowed.refusals(asked):
        for one in refused:
            target.rules.refused(one, len(unit))
        raise PolicyRefused("; ".join(map(str, refused)))


def _tags(unit: Unit, intent_id: str, spec: Spec, now: float, *, by_tag: bool) -> dict[str, str]:
    record = unit[0].record
    shared = tags.birth_tags(
        namespace=record.namespace,
        intent=intent_id,
        batch=record.batch_id,
        owner=record.owner,
        expires_at=None if spec.ttl_s is None else now + spec.ttl_s,
        extra=spec.aws_tags,
    )
    if len(unit) == 1:
        return shared | tags.own_tags(record.key, record.generation)
    if by_tag:
        shared[tags.MEMBER] = tags.UNASSIGNED
    return shared | tags.encode_manifest([(w.record.tag, w.record.generation) for w in unit])


def _user_data(unit: Unit, spec: Spec, shared: Mapping[str, str], user: str, *, by_tag: bool) -> bytes:
    machines = [
        Machine(
            key=w.key,
            generation=w.record.generation,
            run=w.spec.run,
            env=w.spec.env,
            user_data=w.spec.user_data,
            ends_with_workload=w.spec.ends_with_its_workload,
        )
        for w in unit
    ]
    boot = Boot(
        ttl_s=spec.ttl_s,
        nonce=shared[tags.INTENT],
        expires_at=shared[tags.EXPIRES_AT],
        user=user,
        docker=spec.docker,
    )
    return compose(boot, machines, by_tag=by_tag)


def _token(target: Target, waiting: Waiting) -> str:
    """A ClientToken that is the same for every launch of this generation and attempt, even if Redis loses its data.

    At most 64 ASCII characters (EC2's user guide, "Ensuring idempotency").
    """
    record = waiting.record
    of = (target.target_id.account, record.namespace, record.tag, record.generation, record.attempt)
    return tags.LAUNCH_PREFIX + hashlib.sha256(_json.encode(of)).hexdigest()[:48]
