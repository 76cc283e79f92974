"""What goes wrong goes wrong as configured, and the ledger knows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest

from tests.ec2sim.config import Fault, SimConfig, adverse
from tests.ec2sim.direct import Direct, Refused
from tests.ec2sim.images import images_of


def codes(ec2: Direct, calls: int) -> list[str]:
    told = []
    for _ in range(calls):
        try:
            ec2.ask("DescribeVpcs")
            told.append("OK")
        except Refused as refused:
            told.append(refused.code)
    return told


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("ServiceUnavailable", 503),
        ("InternalError", 500),
        ("UnauthorizedOperation", 403),
        ("RequestExpired", 400),
        ("ExpiredToken", 403),
        ("InsufficientInstanceCapacity", 500),
        ("PendingVerification", 400),
    ],
)
def test_an_error_comes_with_its_status(code: str, status: int) -> None:
    ec2 = Direct(SimConfig(faults=(Fault(code=code),)))
    with pytest.raises(Refused) as refused:
        ec2.ask("DescribeVpcs")
    assert (refused.value.code, refused.value.status) == (code, status)


def test_a_fault_concerns_its_actions_alone() -> None:
    ec2 = Direct(SimConfig(faults=(Fault(action="Run*", code="InternalError"),)))
    assert codes(ec2, 1) == ["OK"]
    with pytest.raises(Refused, match="InternalError"):
        ec2.run()


def test_a_fault_concerns_calls_with_its_parameters_alone() -> None:
    ec2 = Direct(SimConfig(faults=(Fault(code="InsufficientInstanceCapacity", params=(("InstanceType", "c7*"),)),)))
    assert ec2.run(InstanceType="t3.micro")
    with pytest.raises(Refused, match="InsufficientInstanceCapacity"):
        ec2.run(InstanceType="c7i.large")


def test_a_fault_skips_and_then_strikes_so_many_times() -> None:
    faults = (Fault(action="DescribeVpcs", code="InternalError", skip=1, times=2),)
    assert codes(Direct(SimConfig(faults=faults)), 5) == ["OK", "InternalError", "InternalError", "OK", "OK"]


def test_a_fault_concerns_one_access_key_if_it_names_one() -> None:
    assert codes(Direct(SimConfig(faults=(Fault(access_key="AKIAOTHER", code="RequestExpired"),))), 1) == ["OK"]
    assert codes(Direct(SimConfig(faults=(Fault(access_key="AKIADIRECT", code="RequestExpired"),))), 1) == [
        "RequestExpired"
    ]


def test_a_probable_fault_strikes_now_and_then_and_the_same_way_for_a_seed() -> None:
    faults = (Fault(code="InternalError", probability=0.5),)
    one, same = (codes(Direct(SimConfig(seed=7, throttle=False, faults=faults)), 40) for _ in range(2))
    assert one == same
    assert 5 < one.count("OK") < 35


def test_an_error_before_the_effect_has_none() -> None:
    ec2 = Direct(SimConfig(faults=(Fault(action="RunInstances", code="ServiceUnavailable"),)))
    with pytest.raises(Refused, match="ServiceUnavailable"):
        ec2.run()
    assert ec2.listed() == []


def test_an_error_after_the_effect_has_one() -> None:
    ec2 = Direct(SimConfig(faults=(Fault(action="RunInstances", code="InternalError", when="after"),)))
    with pytest.raises(Refused, match="InternalError"):
        ec2.run()
    assert len(ec2.listed()) == 1


def test_a_refused_effect_is_told_rather_than_the_error_after_it() -> None:
    ec2 = Direct(SimConfig(faults=(Fault(action="RunInstances", code="InternalError", when="after"),)))
    with pytest.raises(Refused, match=r"InvalidKeyPair\.NotFound"):
        ec2.run(KeyName="nobody")


def test_faults_given_anew_are_counted_anew() -> None:
    once = SimConfig(faults=(Fault(code="InternalError", times=1),))
    ec2 = Direct(once)
    assert codes(ec2, 2) == ["InternalError", "OK"]
    ec2.world.configure(once)
    assert codes(ec2, 2) == ["InternalError", "OK"]


def test_an_unknown_region_is_refused() -> None:
    with pytest.raises(Refused, match="AuthFailure"):
        Direct(region="mars-north-1").listed()


def test_an_unknown_action_is_refused() -> None:
    with pytest.raises(Refused, match="InvalidAction"):
        Direct().ask("DescribeVolumes")


def test_a_bad_day_still_gets_there() -> None:
    ec2 = Direct(adverse(seed=11))
    image = next(i for i in images_of("us-east-1").values() if i.state == "available")
    ends: Counter[str] = Counter()
    for _ in range(200):
        ec2.clock.advance(1)
        try:
            ec2.run(ClientToken="t", ImageId=image.id)
        except Refused as refused:
            ends[refused.code] += 1
        except ConnectionResetError:
            ends["reset"] += 1
        else:
            ends["OK"] += 1
    assert ends.keys() == {"OK", "reset", "ServiceUnavailable", "InternalError"}
    assert ends["OK"] > 150
    assert len(list(ec2.world.instances())) == 1


# ledger


def test_the_ledger_tells_what_each_call_did() -> None:
    ec2 = Direct()
    launched = ec2.run(MinCount=2, MaxCount=2, ClientToken="t", UserData="c2VjcmV0")["Instances"]
    with pytest.raises(Refused):
        ec2.run(KeyName="nobody")
    done, refused = ec2.world.ledger.since(action="RunInstances")
    assert done.effect == tuple(one["InstanceId"] for one in launched)
    assert (done.code, done.status, done.params["ClientToken"]) == ("OK", 200, "t")
    assert (refused.code, refused.effect) == ("InvalidKeyPair.NotFound", ())
    assert b"c2VjcmV0" not in msgspec.json.encode(done)


def test_the_ledger_tells_a_repeated_call_from_another() -> None:
    ec2 = Direct()
    for token, count in (("t", 1), ("u", 1), ("t", 2)):
        try:
            ec2.run(ClientToken=token, MaxCount=count)
        except Refused:
            continue
    one, same, other = (entry.digest for entry in ec2.world.ledger.since(action="RunInstances"))
    assert one == same != other


@pytest.mark.parametrize(
    ("action", "params"),
    [
        ("TerminateInstances", {"InstanceIds": ["i-0"]}),
        ("DeleteSecurityGroup", {"GroupId": "sg-0"}),
        ("RevokeSecurityGroupIngress", {"GroupId": "sg-0"}),
        ("DeleteTags", {"Resources": ["i-0"]}),
    ],
)
def test_the_ledger_marks_what_puter_never_calls(action: str, params: dict[str, Any]) -> None:
    ec2 = Direct()
    with pytest.raises(Refused):
        ec2.ask(action, **params)
    assert [entry.forbidden for entry in ec2.world.ledger.entries] == [True]


def test_an_ordinary_call_is_not_marked() -> None:
    ec2 = Direct()
    ec2.listed()
    assert not ec2.world.ledger.entries[-1].forbidden


def test_a_reset_forgets_everything() -> None:
    ec2 = Direct()
    ec2.launch(3)
    ec2.world.reset(SimConfig())
    assert (ec2.listed(), len(ec2.world.ledger.entries)) == ([], 1)
