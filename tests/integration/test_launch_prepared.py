"""The calls around a launch, and what they meet: what others made meanwhile, limits, and permissions that are missing.

Key pair and security group are made before a launch; further addresses are let in, and tags are written, after it.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.view import WaitFor
from puter_worker.ec2.answers import AnswerType
from puter_worker.ec2.calls import Action, Caller
from puter_worker.store import names
from tests.ec2sim.config import Fault
from tests.ec2sim.groups import MAX_RULES
from tests.integration.sim_workshop import SimWorkshop, eventually, in_groups, sim_url, sim_workshop
from tests.integration.test_launch_errors import HOME, codes, key_pairs, launched, let_in, says
from tests.integration.workshop import PATIENCE_S, PUBLIC_KEY

__all__ = ["in_groups", "sim_url", "sim_workshop"]

OTHERS_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g other"
OFFICE = "198.51.100.0/24"
MANAGED = [{"Key": "puter:managed", "Value": "true"}, {"Key": "puter:namespace", "Value": "betty"}]

Meanwhile = dict[str, Callable[[], object]]


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """By action: what somebody else does right before Puter first calls it, having looked."""
    real, others = Caller.call, Meanwhile()

    async def call(self: Caller, action: Action, answer: type[AnswerType], /, **params: Any) -> AnswerType:
        if action in others:
            others.pop(action)()
        return await real(self, action, answer, **params)

    monkeypatch.setattr(Caller, "call", call)
    return others


async def notices(shop: SimWorkshop) -> str:
    """What the timeline of the one request tells its owner of key pair and group."""
    return " ".join(event.detail.get("notice", "") for event in await shop.told("one"))


async def waited_for_duplicates(shop: SimWorkshop) -> bool:
    """Whether the one request was put off because something was there already."""
    return any("Duplicate" in (event.reason or "") for event in await shop.told("one"))


def make_group(shop: SimWorkshop, *, managed: bool, name: str = "puter-v1-betty") -> str:
    """Somebody else, or another worker, makes a security group; its id."""
    tags = [{"ResourceType": "security-group", "Tags": MANAGED}] if managed else []
    made = shop.ec2.create_security_group(GroupName=name, Description="-", TagSpecifications=tags)
    return str(made["GroupId"])


def open_group(shop: SimWorkshop, *cidrs: str) -> None:
    """Somebody else, or another worker, lets ssh in through Puter's group."""
    (group,) = shop.ec2.describe_security_groups(GroupNames=["puter-v1-betty"])["SecurityGroups"]
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": cidr} for cidr in cidrs]}
    shop.ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=[rule])


def import_key(shop: SimWorkshop, public_key: str, name: str = "puter-v1-betty") -> None:
    """Somebody else, or another worker, imports a key."""
    shop.ec2.import_key_pair(KeyName=name, PublicKeyMaterial=public_key.encode())


# -- what was made between a look and a call ---


async def test_a_group_that_another_worker_made_meanwhile_is_opened_and_used(
    sim_workshop: SimWorkshop, meanwhile: Meanwhile
) -> None:
    meanwhile["CreateSecurityGroup"] = lambda: make_group(sim_workshop, managed=True)
    async with sim_workshop.working():
        await launched(sim_workshop)

    assert await codes(sim_workshop, "CreateSecurityGroup") == ["OK", "InvalidGroup.Duplicate"]
    assert not await waited_for_duplicates(sim_workshop)
    assert let_in(sim_workshop) == [HOME]


async def test_a_group_that_somebody_made_meanwhile_is_used_as_it_is(
    sim_workshop: SimWorkshop, meanwhile: Meanwhile
) -> None:
    made: list[str] = []
    meanwhile["CreateSecurityGroup"] = lambda: made.append(make_group(sim_workshop, managed=False))
    async with sim_workshop.working():
        await launched(sim_workshop)

    assert [list(one.group_ids) for one in await sim_workshop.living()] == [made]
    assert let_in(sim_workshop) == []
    assert f"it does not let ssh in from {HOME}" in await notices(sim_workshop)


async def test_a_group_that_was_made_meanwhile_but_is_not_to_be_seen_yet_is_waited_for(
    sim_workshop: SimWorkshop, meanwhile: Meanwhile
) -> None:
    await sim_workshop.sim.configure(group_lag_s=(1.0, 1.0))
    made: list[str] = []
    meanwhile["CreateSecurityGroup"] = lambda: made.append(make_group(sim_workshop, managed=True))
    async with sim_workshop.working():
        await launched(sim_workshop)

    assert await codes(sim_workshop, "CreateSecurityGroup") == ["OK", "InvalidGroup.Duplicate"]
    assert not await waited_for_duplicates(sim_workshop)
    assert [list(one.group_ids) for one in await sim_workshop.living()] == [made]


async def test_a_key_that_another_worker_imported_meanwhile_is_used(
    sim_workshop: SimWorkshop, meanwhile: Meanwhile
) -> None:
    meanwhile["ImportKeyPair"] = lambda: import_key(sim_workshop, PUBLIC_KEY)
    async with sim_workshop.working():
        record = await launched(sim_workshop)

    assert await codes(sim_workshop, "ImportKeyPair") == ["OK", "InvalidKeyPair.Duplicate"]
    assert not await waited_for_duplicates(sim_workshop)
    assert record.key_name == "puter-v1-betty"


async def test_a_machine_never_admits_a_key_that_somebody_imported_meanwhile(
    sim_workshop: SimWorkshop, meanwhile: Meanwhile
) -> None:
    meanwhile["ImportKeyPair"] = lambda: import_key(sim_workshop, OTHERS_KEY)
    async with sim_workshop.working():
        record = await launched(sim_workshop)

    keys = {pair["KeyName"]: pair["PublicKey"] for pair in key_pairs(sim_workshop)}
    (machine,) = await sim_workshop.living()
    assert machine.key_name == record.key_name
    assert keys[machine.key_name or ""].split()[:2] == PUBLIC_KEY.split()[:2]
    assert "EC2 holds another key under the name 'puter-v1-betty'" in await notices(sim_workshop)


async def test_a_chosen_name_that_somebody_took_meanwhile_fails_the_request(
    sim_workshop: SimWorkshop, meanwhile: Meanwhile
) -> None:
    meanwhile["ImportKeyPair"] = lambda: import_key(sim_workshop, OTHERS_KEY, "ours")
    async with sim_workshop.working():
        (view,) = await sim_workshop.request("one", wait=WaitFor.LAUNCHED, key_name="ours")

    assert view.record
    assert view.record.error
    assert (view.phase, view.record.error.code) == (Phase.FAILED, "KeyPairMismatch")
    assert await sim_workshop.seen() == []


async def test_an_address_that_another_worker_let_in_meanwhile_keeps_out_no_other(
    sim_workshop: SimWorkshop, meanwhile: Meanwhile
) -> None:
    meanwhile["AuthorizeSecurityGroupIngress"] = lambda: open_group(sim_workshop, HOME)
    async with sim_workshop.working():
        await sim_workshop.request("one", wait=WaitFor.LAUNCHED, ssh_from=(HOME, OFFICE))
        await sim_workshop.one_each("one")

    assert await codes(sim_workshop, "AuthorizeSecurityGroupIngress") == ["OK", "InvalidPermission.Duplicate", "OK"]
    assert not await waited_for_duplicates(sim_workshop)
    assert let_in(sim_workshop) == [HOME, OFFICE]


async def test_an_address_that_another_worker_let_in_meanwhile_is_let_in(
    sim_workshop: SimWorkshop, meanwhile: Meanwhile
) -> None:
    meanwhile["AuthorizeSecurityGroupIngress"] = lambda: open_group(sim_workshop, HOME)
    async with sim_workshop.working():
        await launched(sim_workshop)

    assert await codes(sim_workshop, "AuthorizeSecurityGroupIngress") == ["OK", "InvalidPermission.Duplicate"]
    assert not await waited_for_duplicates(sim_workshop)
    assert let_in(sim_workshop) == [HOME]


async def test_the_newest_image_is_remembered_for_a_while(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working():
        await sim_workshop.request("one", wait=WaitFor.LAUNCHED)
        await sim_workshop.request("two", wait=WaitFor.LAUNCHED)

    assert len(await sim_workshop.calls("DescribeImages")) == 1


async def test_two_who_prepare_at_the_same_time_share_one_key_pair_and_one_group(
    sim_workshop: SimWorkshop, tmp_path: Path
) -> None:
    keys = "aws_access_key_id = {0}\naws_secret_access_key = {0}\n"
    profiles = ("left", "right")
    (tmp_path / "aws-credentials").write_text("".join(f"[{name}]\n{keys.format(name)}" for name in profiles))
    await sim_workshop.sim.configure(latency_s=(0.1, 0.1))
    async with sim_workshop.working():
        left = await sim_workshop.submit("one", profile="left", ssh_from=(HOME,))
        right = await sim_workshop.submit("two", profile="right", ssh_from=(OFFICE,))
        for tag, batch in (("one", left), ("two", right)):
            await sim_workshop.client.wait(batch_id=batch, tags=[tag], wait=WaitFor.LAUNCHED, timeout_s=PATIENCE_S)
        await sim_workshop.one_each("one", "two")

    assert len({one.group_ids for one in await sim_workshop.living()}) == 1
    assert [pair["KeyName"] for pair in key_pairs(sim_workshop)] == ["puter-v1-betty"]
    assert let_in(sim_workshop) == [HOME, OFFICE]


# -- limits ---


async def test_a_full_group_lets_the_machine_run_and_says_who_cannot_reach_it(sim_workshop: SimWorkshop) -> None:
    make_group(sim_workshop, managed=True)
    full = sorted(f"203.0.113.{n}/32" for n in range(MAX_RULES))
    open_group(sim_workshop, *full)
    async with sim_workshop.working():
        (view,) = await sim_workshop.request("one", security_group_name="puter-v1-betty")
        await sim_workshop.one_each("one")

    assert view.record
    assert (view.phase, view.record.error) == (Phase.RUNNING, None)
    assert let_in(sim_workshop) == full
    assert f"is full (EC2's default limit is 60 rules): it does not let ssh in from {HOME}" in await notices(
        sim_workshop
    )


async def test_after_a_full_group_comes_another_for_the_next_machine(sim_workshop: SimWorkshop) -> None:
    full = make_group(sim_workshop, managed=True)
    open_group(sim_workshop, *(f"203.0.113.{n}/32" for n in range(MAX_RULES)))
    async with sim_workshop.working():
        await sim_workshop.request("one", "two")

    assert "is full" not in await notices(sim_workshop)
    (groups,) = {one.group_ids for one in await sim_workshop.living()}
    (second,) = sim_workshop.ec2.describe_security_groups(GroupIds=list(groups))["SecurityGroups"]
    assert second["GroupName"] == "puter-v1-betty.2"
    assert second["GroupId"] != full


async def test_a_machine_gets_another_group_when_its_own_is_full_meanwhile(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working():
        await running(sim_workshop)
        open_group(sim_workshop, *(f"203.0.113.{n}/32" for n in range(MAX_RULES - 1)))
        await sim_workshop.request("one", ssh_from=(OFFICE,))
        await eventually("somebody is let in", lambda: nobody_waits_at_the_door(sim_workshop))

    (machine,) = await sim_workshop.living()
    groups = sim_workshop.ec2.describe_security_groups(GroupIds=list(machine.group_ids))["SecurityGroups"]
    assert {group["GroupName"] for group in groups} == {"puter-v1-betty", "puter-v1-betty.2"}


async def test_a_group_that_is_full_meanwhile_leaves_a_running_machine_alone(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working():
        await sim_workshop.request("one", security_group_name="puter-v1-betty")
        before = await sim_workshop.record("one")
        open_group(sim_workshop, *(f"203.0.113.{n}/32" for n in range(MAX_RULES - 1)))
        with capture_logs() as logs:
            (view,) = await sim_workshop.request("one", ssh_from=(OFFICE,))
            await eventually("nobody is to be let in any more", lambda: nobody_waits_at_the_door(sim_workshop))

    assert view.outcome is Outcome.EXISTING
    assert (await sim_workshop.record("one")).instance_id == before.instance_id
    assert "RulesPerSecurityGroupLimitExceeded" in await codes(sim_workshop, "AuthorizeSecurityGroupIngress")
    (made,) = [line for line in logs if line["event"] == "ingress.opened"]
    assert f"it does not let ssh in from {OFFICE}" in made["notice"]


async def test_a_look_up_for_too_much_at_once_is_made_in_parts(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.sim.configure(filter_values=20)
    tags = [f"job-{n}" for n in range(100)]
    async with sim_workshop.working():
        await sim_workshop.request(*tags, wait=WaitFor.LAUNCHED)

    assert "FilterLimitExceeded" in await codes(sim_workshop, "DescribeInstances")
    await sim_workshop.one_each(*tags)


async def test_a_look_up_for_one_that_is_too_much_is_waited_for(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.faults(Fault(action="DescribeInstances", code="FilterLimitExceeded"))
    async with sim_workshop.working():
        await sim_workshop.submit("one")
        await eventually("the reason is told", lambda: says(sim_workshop, "FilterLimitExceeded", "trying again"))
        before = await sim_workshop.seen()
        await sim_workshop.faults()
        await launched(sim_workshop)

    assert before == []


# -- permissions and credentials of other calls ---


async def test_without_the_permission_to_make_a_key_the_request_fails_and_leaves_no_file(
    sim_workshop: SimWorkshop, tmp_path: Path
) -> None:
    await sim_workshop.faults(Fault(action="CreateKeyPair", code="UnauthorizedOperation"))
    async with sim_workshop.working(local_engine=tmp_path):
        (view,) = await sim_workshop.request("one", wait=WaitFor.LAUNCHED, public_key=None)

    assert view.record
    assert view.record.error
    assert (view.phase, view.record.error.code) == (Phase.FAILED, "UnauthorizedOperation")
    assert "deploy/iam-policy.json" in view.record.error.message
    assert await sim_workshop.seen() == []
    assert list((tmp_path / "private_keys").iterdir()) == []


async def test_a_key_that_ec2_made_is_kept_by_its_owner_alone(sim_workshop: SimWorkshop, tmp_path: Path) -> None:
    await sim_workshop.faults(Fault(action="CreateKeyPair", code="ExpiredToken", times=1))
    async with sim_workshop.working(local_engine=tmp_path):
        (view,) = await sim_workshop.request("one", wait=WaitFor.LAUNCHED, public_key=None)

    (kept,) = (tmp_path / "private_keys").glob("*.pem")
    assert view.record
    assert view.record.private_key_path == str(kept)
    assert {stat.S_IMODE(file.stat().st_mode) for file in kept.parent.iterdir()} == {0o600}
    assert [pair["KeyName"] for pair in key_pairs(sim_workshop)] == [kept.stem]


async def running(shop: SimWorkshop) -> Record:
    """The record of the one request, once its machine runs."""
    (view,) = await shop.request("one")
    assert view.record
    assert view.phase is Phase.RUNNING
    return view.record


async def nobody_waits_at_the_door(shop: SimWorkshop) -> bool:
    """Whether there is no address left to be let in."""
    with shop.server.client() as behind:
        return not behind.exists(names.INGRESS)


async def moved_to_another_group(shop: SimWorkshop) -> tuple[str, str]:
    """The one machine runs, and somebody has given it another group instead; ids of machine and group."""
    record = await running(shop)
    other = make_group(shop, managed=False, name="theirs")
    shop.ec2.modify_instance_attribute(InstanceId=record.instance_id, Groups=[other])
    return record.instance_id or "", other


async def test_without_the_permission_to_add_a_group_the_machine_runs_on_as_it_is(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working():
        instance_id, other = await moved_to_another_group(sim_workshop)
        await sim_workshop.faults(Fault(action="ModifyInstanceAttribute", code="UnauthorizedOperation"))
        with capture_logs() as logs:
            (view,) = await sim_workshop.request("one", ssh_from=(OFFICE,))
            await eventually("nobody is to be let in any more", lambda: nobody_waits_at_the_door(sim_workshop))
        record = await sim_workshop.record("one")

    assert view.outcome is Outcome.EXISTING
    assert (record.phase, record.instance_id, record.error) == (Phase.RUNNING, instance_id, None)
    assert [one.group_ids for one in await sim_workshop.living()] == [(other,)]
    assert await codes(sim_workshop, "ModifyInstanceAttribute") == ["OK", "UnauthorizedOperation"]
    (refused,) = [line for line in logs if line["event"] == "ingress.refused"]
    assert (refused["tag"], refused["code"], refused["final"]) == ("one", "UnauthorizedOperation", True)


async def test_a_group_that_cannot_be_added_without_credentials_is_added_later(sim_workshop: SimWorkshop) -> None:
    sim_workshop.hurry(ingress_claim_s=0.3)
    async with sim_workshop.working():
        _, other = await moved_to_another_group(sim_workshop)
        await sim_workshop.faults(Fault(action="ModifyInstanceAttribute", code="ExpiredToken", times=2))
        await sim_workshop.request("one", ssh_from=(OFFICE,))
        await eventually("nobody is to be let in any more", lambda: nobody_waits_at_the_door(sim_workshop))

    (machine,) = await sim_workshop.living()
    assert machine.group_ids[0] == other
    assert len(machine.group_ids) == 2
    assert let_in(sim_workshop) == [HOME, OFFICE]


@pytest.mark.usefixtures("in_groups")
@pytest.mark.parametrize("code", ["ExpiredToken", "RequestExpired"])
async def test_labels_wait_for_credentials_while_the_machines_run(sim_workshop: SimWorkshop, code: str) -> None:
    tags = [f"job-{n}" for n in range(8)]
    await sim_workshop.faults(Fault(action="CreateTags", code=code))
    async with sim_workshop.working():
        views = await sim_workshop.request(*tags)
        waiting = {one.tags["puter:labelled"] for one in await sim_workshop.living()}
        await sim_workshop.faults()
        await eventually("every machine bears its own tags", lambda: labelled(sim_workshop, *tags))
        await sim_workshop.one_each(*tags)

    assert [(view.phase, view.record and view.record.labelled) for view in views] == [(Phase.RUNNING, False)] * 8
    assert waiting == {"no"}
    assert {one.tags["puter:labelled"] for one in await sim_workshop.living()} == {"yes"}


async def labelled(shop: SimWorkshop, *tags: str) -> bool:
    """Whether the records say that each machine bears its own tags."""
    return all(record.labelled for record in await shop.records(*tags))
