"""Every rule of a policy: what it allows and refuses, when a request is taken and again before its launch."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import msgspec
import pytest

from puter_client.contract.key import PuterKey
from puter_client.contract.os_image import Os
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.contract.request import Origin, UpRequest
from puter_client.contract.spec import Spec, spec_digest
from puter_client.policy.file import parse_policy
from puter_client.policy.policy import Allowed, Policy
from puter_client.policy.rule import About, Asked
from puter_client.policy.rule import Image as Owner
from puter_client.policy.rules import RULES
from puter_worker.ec2.images import Image
from puter_worker.errors import PolicyRefused
from puter_worker.policy import POLICY, Rules
from puter_worker.stages.admission import Admission
from puter_worker.stages.decide import decide
from puter_worker.stages.plan import Waiting
from puter_worker.stages.prepare import check_policy
from puter_worker.store.versioned import Versioned
from puter_worker.target import TargetId

ROOT = Path(__file__).parents[2]
ACCOUNT = "123456789012"
AMI = "ami-0123456789abcdef0"
# Allows what SPEC asks for, and nothing else.
BASE: dict[str, Any] = {
    "profiles": ["lab"],
    "regions": ["us-east-1"],
    "instance_types": ["t3.micro"],
    "images": ["al2023"],
    "longest_ttl": "1h",
    "most_machines": 1,
    "most_vcpus": 2,
    "most_machines_an_hour": 1,
    "most_requests": "unlimited",
    "most_records": "unlimited",
}
SPEC = Spec(profile="lab", region="us-east-1")


class Case(NamedTuple):
    """What a rule decides.

    Attributes:
        rule: the rule.
        spec: what is requested, beside SPEC.
        value: of the rule, with which the request is allowed.
        less: of the rule, with which it is refused; None: the rule is not written.
        told: what the refusal says of the requested value.
        more: further rules.
    """

    rule: str
    spec: dict[str, Any]
    value: Any
    less: Any
    told: str
    more: dict[str, Any] = {}  # noqa: RUF012 - never changed


CASES = [
    Case("profiles", {}, ["art", "lab"], ["art"], "AWS profile 'lab'"),
    Case("profiles", {}, ["lab"], None, "AWS profile 'lab'"),
    Case("profiles", {}, ["lab"], ["la"], "AWS profile 'lab'"),
    Case("default_credentials", {"profile": None}, True, None, "without an AWS profile"),
    Case("default_credentials", {"profile": None}, True, False, "without an AWS profile"),
    Case("regions", {}, ["us-*"], ["eu-*", "us-east-2"], "region us-east-1"),
    Case("instance_types", {"instance_types": ("c7i.large",)}, ["t3.*", "c7i.*"], ["t3.*"], "type c7i.large"),
    Case("instance_types", {"instance_type": "t3.micro"}, ["t[34].micro"], ["t[!3].micro"], "type t3.micro"),
    Case("images", {"os": Os.UBUNTU_24_04}, ["ubuntu*"], ["al2023"], "os ubuntu24.04"),
    Case("images", {"ami": AMI}, [AMI], ["al2023"], AMI),
    Case("images", {"ami": AMI}, ["ami-0123*"], ["ami-9*"], AMI),
    Case("image_owners", {"ami": AMI}, ["self"], None, AMI),
    Case("image_owners", {"ami": AMI}, [ACCOUNT], None, AMI),
    Case("subnets", {"subnet": "subnet-11111111"}, ["subnet-11111111"], None, "subnet-11111111"),
    Case(
        "subnets",
        {"subnet": "subnet-11111111", "subnets": ("subnet-22222222",)},
        ["subnet-11111111", "subnet-22222222"],
        ["subnet-11111111"],
        "subnet-22222222",
    ),
    Case("security_groups", {"security_group_name": "lab-ssh"}, ["lab-ssh"], ["lab"], "'lab-ssh'"),
    Case("key_names", {"key_name": "mine"}, ["mine"], None, "'mine'"),
    Case("instance_profiles", {"instance_profile": "admin"}, ["admin"], ["reader"], "'admin'"),
    *(
        Case("ssh_from", {"ssh_from": (cidr,)}, list(value), less, f"ssh from {cidr}", {"ssh_from_count": 1})
        for cidr, value, less in [
            ("203.0.113.7/32", ["203.0.113.0/24"], ["203.0.112.0/24"]),
            ("203.0.113.0/24", ["203.0.113.0/24"], ["203.0.113.0/25"]),
            ("0.0.0.0/0", ["0.0.0.0/0"], ["0.0.0.0/1", "128.0.0.0/1"]),
            ("::/0", ["::/0"], ["0.0.0.0/0"]),
            ("2001:db8::/64", ["2001:db8::/32"], ["0.0.0.0/0"]),
            ("10.0.0.0/8", ["0.0.0.0/0"], ["::/0"]),
        ]
    ),
    Case("ssh_from_ipv4_prefix", {"ssh_from": ("8.8.8.0/24",)}, 24, 25, "8.8.8.0/24", {"ssh_from_count": 1}),
    Case("ssh_from_ipv4_prefix", {"ssh_from": ("0.0.0.0/0",)}, None, 8, "0.0.0.0/0", {"ssh_from_count": 1}),
    Case("ssh_from_ipv6_prefix", {"ssh_from": ("2001:db8::/64",)}, 64, 128, "2001:db8::", {"ssh_from_count": 1}),
    Case("ssh_from_ipv6_prefix", {"ssh_from": ("2001:db8::/64",)}, 64, None, "2001:db8::",
         {"ssh_from_count": 1, "ssh_from_ipv4_prefix": 8}),
    Case("ssh_from_count", {"ssh_from": ("8.8.8.8/32", "9.9.9.9/32")}, 2, 1, "2 networks",
         {"ssh_from": ["0.0.0.0/0"]}),
    Case("ssh_from_count", {"ssh_from": ("8.8.8.8/32",)}, 1, None, "1 networks", {"ssh_from": ["0.0.0.0/0"]}),
    Case("user_data", {"user_data": "#!/bin/sh\n"}, True, None, "user data"),
    Case("spot", {"spot": True}, True, False, "Spot"),
    Case("spot", {"spot": "prefer"}, True, None, "Spot"),
    Case("disk", {"disk": 100}, 100, 99, "100 GiB"),
    Case("disk", {"disk": 1}, "unlimited", None, "1 GiB"),
    Case("longest_ttl", {"ttl_s": 7_200}, "2h", "1h59m", "a life of 2h"),
    Case("longest_ttl", {}, "unlimited", None, "a life of 1h"),
    Case("no_shutdown", {"ttl_s": None}, True, None, "never ends itself"),
    Case("most_machines", {}, 1, 0, "1 machine"),
    Case("most_machines", {}, "unlimited", None, "1 machine"),
    Case("most_vcpus", {}, 2, 0, "vCPUs"),
    Case("most_vcpus", {}, "unlimited", None, "vCPUs"),
    Case("most_machines_an_hour", {}, 1, None, "1 launch"),
    Case("most_requests", {}, "unlimited", 0, "1 request"),
    Case("most_records", {}, "unlimited", None, "1 record"),
]  # fmt: skip
# These rules are asked together with another one, which then names itself.
SAID_BY = {"image_owners": "images", "ssh_from_ipv4_prefix": "ssh_from", "ssh_from_ipv6_prefix": "ssh_from"}


def toml(values: dict[str, Any]) -> str:
    """A policy that says this of everybody."""
    return '[namespaces."*"]\n' + "".join(
        f"{name} = {msgspec.json.encode(value).decode()}\n" for name, value in values.items()
    )


def policy(case: Case, value: Any) -> Policy:
    values = BASE | case.more | {case.rule: value}
    if value is None:
        del values[case.rule]
    if "ami" in case.spec and case.rule == "image_owners":
        values["images"] = ["al2023"]
    return parse_policy(toml(values))


def rules(of: Policy) -> Rules:
    """The rules of a worker with this policy."""
    found = Rules()
    found.policy = of
    return found


def at_intake(of: Policy, spec: Spec) -> list[tuple[str, str]]:
    """What is refused of a request when it is taken: rule and text."""
    request = UpRequest(tag="one", spec=spec, size=1, batch="b1", user="ann", origin=Origin.UP)
    admission = Admission(cast("Any", None), rules(of), "betty")
    decision = decide(None, None, request, PuterKey("betty", "one"), 1.0)
    refused = admission.admit(None, request, decision, 1.0)
    return [] if refused is None else [(refused.rule, str(refused))]


def at_launch(of: Policy, spec: Spec) -> list[tuple[str, str]]:
    """What is refused of it before its intent is made."""
    target = SimpleNamespace(rules=rules(of), target_id=TargetId(ACCOUNT, spec.region or "", spec.profile or ""))
    image = Image(image_id=AMI, name="", architecture="x86_64", root_device_name=None, owner_id=ACCOUNT)
    request = UpRequest(tag="one", spec=spec, size=1, batch="b1", user="ann", origin=Origin.UP)
    record = decide(None, None, request, PuterKey("betty", "one"), 1.0).record
    assert isinstance(record, Record)
    try:
        check_policy(cast("Any", target), (Waiting(Versioned(record, b"1"), spec),), image, 2)
    except PolicyRefused as error:
        ((_, sums),) = target.rules.take_counted().items()
        told = [why for why in sums.times if sums.examples[why] in error.message]
        return [(why.removeprefix(POLICY), error.message) for why in told]
    return []


MOMENTS = pytest.mark.parametrize("moment", [at_intake, at_launch])


@MOMENTS
@pytest.mark.parametrize("case", [case for case in CASES if case.value is not None], ids=str)
def test_what_a_rule_allows_passes(case: Case, moment: Any) -> None:
    assert moment(policy(case, case.value), msgspec.structs.replace(SPEC, **case.spec)) == []


@MOMENTS
@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_a_rule_does_not_allow_is_refused_with_rule_and_value(case: Case, moment: Any) -> None:
    (refused,) = moment(policy(case, case.less), msgspec.structs.replace(SPEC, **case.spec))

    rule, text = refused
    assert rule == SAID_BY.get(case.rule, case.rule)
    assert case.told in text
    assert "namespace betty" in text
    assert f"(rule {rule}; allowed: " in text


LONG = [
    ("instance_types", [f"m{n}.large" for n in range(1_000)], {"instance_type": "p5.48xlarge"}),
    ("profiles", [f"team-{n}" for n in range(1_000)], {"profile": "p" * 128}),
    ("regions", [f"us-east-{n}?" for n in range(1, 1_000)], {"region": "eu-west-1"}),
    ("images", [f"ami-{n:017x}" for n in range(1_000)], {"os": Os.UBUNTU_24_04}),
    ("subnets", [f"subnet-{n:017x}" for n in range(1_000)], {"subnet": "subnet-0123456789abcdef0"}),
    ("key_names", ["k" * 250 + str(n) for n in range(1_000)], {"key_name": "x" * 255}),
    ("ssh_from", [f"10.{n // 250}.{n % 250}.0/24" for n in range(1_000)], {"ssh_from": ("192.0.2.0/24",)}),
    ("instance_profiles", ["i" * 128, *(f"role-{n}" for n in range(999))], {"instance_profile": "r" * 128}),
]  # fmt: skip


@MOMENTS
@pytest.mark.parametrize(("rule", "allowed", "asked"), LONG, ids=[rule for rule, _, _ in LONG])
def test_a_refusal_names_some_of_a_long_list_and_where_the_whole_of_it_is(
    rule: str, allowed: list[str], asked: dict[str, Any], moment: Any
) -> None:
    of = parse_policy(toml(BASE | {"ssh_from_count": 20, rule: allowed}))
    text = dict(moment(of, msgspec.structs.replace(SPEC, **asked)))[rule]

    assert f"(rule {rule}; allowed: " in text
    assert allowed[0][:40] in text
    assert re.search(r" and \d{3} more: `puter admin policy explain` on the workers' host shows all\)$", text)
    assert len(text) <= 350


def test_a_refusal_names_all_of_a_short_list() -> None:
    of = parse_policy(toml(BASE | {"instance_types": [f"m{n}.large" for n in range(10)]}))
    (refused,) = at_intake(of, msgspec.structs.replace(SPEC, instance_type="t3.micro"))

    assert refused[1].endswith(f"allowed: {', '.join(f'm{n}.large' for n in range(10))})")


def test_every_rule_is_in_the_matrix() -> None:
    assert {rule.name for rule in RULES} - {case.rule for case in CASES} == {"default_profile"}


def test_every_rule_is_on_the_page() -> None:
    page = (ROOT / "docs" / "policy.md").read_text()

    assert set(re.findall(r"^\| `([a-z_0-9]+)` \|", page, re.MULTILINE)) == {rule.name for rule in RULES}


@pytest.mark.parametrize("owner", [("999999999999", None), ("", None), ("999999999999", "aws-marketplace")])
def test_an_image_of_another_owner_passes_intake_and_is_refused_before_its_launch(
    owner: tuple[str, str | None],
) -> None:
    of = parse_policy(toml(BASE | {"image_owners": ["amazon", "self"]}))
    allowed = of.of("betty")
    spec = msgspec.structs.replace(SPEC, ami=AMI)
    asked = Asked(spec=spec, profile="lab", region="us-east-1")
    seen = msgspec.structs.replace(asked, image=Owner(*owner))

    assert allowed.refusals(asked) == ()
    assert [one.rule for one in allowed.refusals(seen)] == ["images"]


def test_the_default_profile_stands_for_one_that_is_not_named() -> None:
    of = parse_policy(toml(BASE | {"default_profile": "lab"}))
    spec = msgspec.structs.replace(SPEC, profile=None)

    assert at_intake(of, spec) == []
    assert of.of("betty").profile_of(spec) == "lab"


def test_a_namespaces_own_table_overrides_single_rules_of_all() -> None:
    of = parse_policy(toml(BASE) + '[namespaces.art]\nprofiles = ["art"]\nspot = true\n')

    assert of.of("art").values == dict(of.of("betty").values) | {"profiles": ("art",), "spot": True}


def test_without_a_table_nothing_is_allowed() -> None:
    of = parse_policy("[namespaces.art]\nspot = true\n")
    forbids = [rule for rule in RULES if rule.about is not About.DEFAULT]

    assert all(rule.is_nothing(of.of("betty").values) for rule in forbids)
    assert of.of("betty").lacking


def test_what_lets_a_namespace_launch_lacks_nothing() -> None:
    assert Allowed("betty", parse_policy(toml(BASE)).of("betty").values).lacking == ()


def of_what_exists(of: Policy, *, given: tuple[str, ...] = (), **asked: Any) -> list[str]:
    """The rules that refuse a request for a machine that lives since 1,000 s, with a ttl of a day."""
    spec = msgspec.structs.replace(SPEC, **asked)
    old = Record(
        namespace="betty",
        tag="one",
        phase=Phase.RUNNING,
        created_at=1.0,
        changed_at=1.0,
        launched_at=1.0,
        ttl_s=86_400,
        instance_id="i-1",
        spec_digest=spec_digest(spec),
    )
    served = msgspec.structs.replace(spec, ttl_s=86_400)
    request = UpRequest(tag="one", spec=spec, size=1, batch="b1", user="ann", origin=Origin.UP, given=given)
    decision = decide(old, served, request, PuterKey("betty", "one"), 1_001.0)
    refused = Admission(cast("Any", None), rules(of), "betty").admit(old, request, decision, 1_001.0)
    return [] if refused is None else [refused.rule]


STRICT = parse_policy(toml(BASE | {"instance_types": ["c7i.*"], "most_machines": 0, "ssh_from_count": 1}))


def test_a_machine_that_exists_is_not_asked_for_what_it_is() -> None:
    assert of_what_exists(STRICT) == []


def test_a_machine_that_exists_is_asked_for_another_life_from_its_launch() -> None:
    assert of_what_exists(STRICT, ttl_s=2_600, given=("ttl",)) == []
    assert of_what_exists(STRICT, ttl_s=2_601, given=("ttl",)) == ["longest_ttl"]
    assert of_what_exists(STRICT, ttl_s=None, given=("ttl",)) == ["no_shutdown"]


def test_a_machine_that_exists_is_asked_for_who_may_reach_it() -> None:
    assert of_what_exists(STRICT, ssh_from=("192.0.2.7/32",)) == ["ssh_from"]
