"""A policy file: every problem is told, with its line; what is on the page and in deploy/ can be used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from puter_client.contract.errors import InvalidInput
from puter_client.contract.spec import Spec
from puter_client.policy.explain import lines, summary, to_json, warnings
from puter_client.policy.file import parse_policy, read_policy
from puter_client.policy.rule import About, Asked, Rule
from puter_client.policy.rules import RULES
from puter_client.policy.values import Names

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "deploy" / "policy.toml.example"
NAMES = "use 1 to 39 lower-case letters, digits and '-', not beginning with '-', or \"*\""
UNKNOWN = "known are " + ", ".join(rule.name for rule in RULES)


def problems(text: str) -> tuple[str, ...]:
    """What is wrong with a policy."""
    with pytest.raises(InvalidInput) as told:
        parse_policy(text)
    assert told.value.exit_code == 2
    return told.value.problems


def rule(line: str) -> str:
    """The one problem of a rule on the third line, without the words that all have."""
    (problem,) = problems(f'# a policy\n[namespaces."*"]\n{line}\n')
    start = 'policy.toml: line 3: [namespaces."*"] '
    assert problem.startswith(start)
    return problem.removeprefix(start)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('instance_type = ["t3.*"]', "'instance_type': unknown rule; did you mean instance_types?"),
        ("'most_vcpu' = 3", "'most_vcpu': unknown rule; did you mean most_vcpus?"),
        ("zzz = 1", f"'zzz': unknown rule; {UNKNOWN}"),
        ('profiles = "lab"', "profiles: 'lab': write a list, like [\"one\", \"two\"]"),
        ("profiles = [1]", "profiles: '1': write a text, in quotes"),
        ('profiles = ["a/b"]', "profiles: 'a/b': write the name of an AWS profile"),
        ('profiles = ["team-[ab]"]', "profiles: 'team-[ab]': write the name of an AWS profile"),
        ('instance_profiles = ["m[ab]"]', "instance_profiles: 'm[ab]': write the name of an IAM instance profile"),
        ('regions = ["qq-north-9"]', "regions: 'qq-north-9': is no AWS region; write one like us-east-1"),
        ('regions = ["us east*"]', "regions: 'us east*': has a character that no such name has"),
        ('instance_types = ["t3"]', "instance_types: 't3': write a type like t3.micro, or t3.*"),
        ('image_owners = ["me"]', "image_owners: 'me': write an account of 12 digits, amazon, aws-marketplace or self"),
        ('subnets = ["subnet-*"]', "subnets: 'subnet-*': a glob is not understood here: write each name in full"),
        ('ssh_from = ["all"]', "ssh_from: 'all': write an address or CIDR like 203.0.113.7/32"),
        ('ssh_from = ["auto"]', "ssh_from: 'auto': write an address or CIDR like 203.0.113.7/32"),
        ("ssh_from_ipv4_prefix = 0", "ssh_from_ipv4_prefix: '0': write a whole number from 8 to 32"),
        ("ssh_from_count = 21", "ssh_from_count: '21': write a whole number from 0 to 20"),
        ('spot = "yes"', "spot: 'yes': write true or false"),
        ("spot = 1", "spot: '1': write true or false"),
        ("disk = true", "disk: 'True': write a whole number from 0 to 65,536, or \"unlimited\""),
        ("longest_ttl = 8", "longest_ttl: '8': write a duration in quotes, like \"8h\", or \"unlimited\""),
        ('longest_ttl = "8"', "longest_ttl: '8': write it like 90s, 60m, 2h or 1h30m"),
        ('longest_ttl = "400d"', "longest_ttl: '400d': write 1m to 365d"),
        ("most_machines = -1", "most_machines: '-1': write a whole number from 0 to 10,000,000, or \"unlimited\""),
        ("most_machines = 1.5", "most_machines: '1.5': write a whole number from 0 to 10,000,000, or \"unlimited\""),
        ('most_vcpus = "many"', "most_vcpus: 'many': write a whole number from 0 to 10,000,000, or \"unlimited\""),
        ('default_profile = ["lab"]', "default_profile: \"['lab']\": write a text, in quotes"),
        ('default_profile = "lab"', "default_profile: 'lab' is not among its profiles (none)"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_used_is_told_with_its_line_and_the_remedy(line: str, told: str) -> None:
    assert rule(line) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "policy.toml: there is no table: write [namespaces.\"*\"], or [namespaces.NAME] for each namespace"),
        ("[namespace.x]", "policy.toml: line 1: 'namespace': unknown; did you mean namespaces?"),
        ("spot = true", "policy.toml: line 1: 'spot': unknown; rules stand in tables like [namespaces.team-a]"),
        ("[namespaces]\nart = 3", "policy.toml: line 2: 'art': write a table, [namespaces.art]"),
        ("\n[namespaces.Art]", f"policy.toml: line 2: 'Art': is not the name of a namespace: {NAMES}"),
        ("[namespaces.art]\nspot = yes", "policy.toml: is not valid TOML: 'Invalid value (at line 2, column 8)'"),
        ("a = " + "[" * 5_000, "policy.toml: is nested too deeply"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_told(text: str, told: str) -> None:
    assert told in problems(text)


def test_all_problems_are_told_in_the_order_of_the_file() -> None:
    found = problems('[namespaces."*"]\nspot = 1\nprofiles = [\n  "a/b",\n]\n[namespaces.art]\nspots = true\n')

    assert [re.findall(r"line (\d+)", one) for one in found] == [["2"], ["3"], ["7"]]


def test_a_default_profile_is_checked_for_every_namespace() -> None:
    text = '[namespaces."*"]\nprofiles = ["a"]\ndefault_profile = "a"\n[namespaces.art]\nprofiles = ["b"]\n'

    assert problems(text) == (
        "policy.toml: line 3: [namespaces.art] default_profile: 'a' is not among its profiles (b)",
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\xff", "is not valid UTF-8: save it as UTF-8"),
        (b"#" * 1_000_001, "has over 1,000,000 bytes, which no policy needs"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, content: bytes | None, told: str) -> None:
    path = tmp_path / "policy.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInput) as error:
        read_policy(path)

    assert str(error.value) == f"{path}: {told}"


def test_the_example_can_be_used_and_is_the_one_on_the_page() -> None:
    (shown,) = re.findall(r"^```toml\n(.*?)^```$", (ROOT / "docs" / "policy.md").read_text(), re.MULTILINE | re.DOTALL)
    policy = read_policy(EXAMPLE)

    assert shown == EXAMPLE.read_text()
    assert policy.namespaces == ("left", "research")
    assert policy.of("team-a").lacking == policy.of("research").lacking == ()
    assert policy.of("left").lacking == ("most_requests",)


def test_every_rule_is_shown_by_the_example() -> None:
    written = set(re.findall(r"^([a-z_0-9]+) =", EXAMPLE.read_text(), re.MULTILINE))

    assert {rule.name for rule in RULES} - written == {"default_credentials", "ssh_from_ipv6_prefix"}


@pytest.mark.parametrize("of", [rule for rule in RULES if isinstance(rule.kind, Names)], ids=lambda of: of.name)
@pytest.mark.parametrize("glob", ["a*", "*", "subnet-?", "aw?"])
def test_a_glob_is_an_error_in_each_list_that_does_not_understand_it(of: Rule, glob: str) -> None:
    if of.name in ("regions", "instance_types", "images"):
        assert of.kind.read([glob]) == (glob,)
    else:
        assert rule(f'{of.name} = ["{glob}"]') == (
            f"{of.name}: '{glob}': a glob is not understood here: write each name in full"
        )


def test_a_namespace_is_explained_with_all_rules_and_where_they_are_from() -> None:
    policy = read_policy(EXAMPLE)
    told = list(lines(policy, "research"))

    assert told[:2] == [
        "namespace research: can launch machines",
        "  its own table says what is marked own, that of every namespace what is marked *",
    ]
    assert [line.split()[0] for line in told[2:]] == [rule.name for rule in RULES]
    assert "  most_vcpus             own  any number of vCPUs alive" in told
    assert "  spot                   *    Spot instances: yes" in told
    assert "  ssh_from_ipv6_prefix   -    ssh from no other IPv6 network" in told
    as_json = to_json(policy, "research")
    assert as_json["own_table"] is True
    assert as_json["rules"]["longest_ttl"] == {
        "value": 30 * 86_400,
        "explained": "a life of at most 30d from the launch",
        "table": "research",
    }
    assert [as_json["rules"][name]["table"] for name in ("spot", "ssh_from_ipv6_prefix")] == ["*", None]


USABLE = """[namespaces."*"]
regions = ["us-east-1"]
instance_types = ["t3.*"]
images = ["al2023"]
longest_ttl = "2h"
most_machines = 10
most_vcpus = 10
most_machines_an_hour = 10
most_requests = 10
most_records = 10
"""
NOTHING = "can launch nothing, because these rules allow nothing"
OWN, NO_TABLE = "its own table says what is marked own", "it has no table of its own"
EACH = (
    "profiles, regions, instance_types, longest_ttl, most_machines, most_vcpus, most_machines_an_hour, "
    "most_requests, most_records, images"
)
ALL = f"{NO_TABLE}, all is from that of every namespace"
ART = USABLE.replace('"*"', "art").replace('regions = ["us-east-1"]', "default_credentials = true")


@pytest.mark.parametrize(
    ("text", "namespace", "told"),
    [
        ("", "typo-resaerch", f"can launch machines / {ALL} (did you mean research?)"),
        ("", "zzz", f"can launch machines / {ALL}"),
        ("", "left", f"{NOTHING}: most_requests / {OWN}, that of every namespace what is marked *"),
        (ART, "art", f"{NOTHING}: regions / {OWN}"),
        (ART, "rat", f'{NOTHING}: {EACH} / {NO_TABLE}, and there is none of every namespace ("*") (did you mean art?)'),
    ],
)  # fmt: skip
def test_the_conclusion_comes_first(text: str, namespace: str, told: str) -> None:
    policy = parse_policy(text) if text else read_policy(EXAMPLE)
    first, second, *_ = lines(policy, namespace)

    assert f"{first} / {second.strip()}" == f"namespace {namespace}: {told}"


@pytest.mark.parametrize(
    ("rules", "warned"),
    [
        ('profiles = ["a", "b"]', True),
        ('profiles = ["a", "b"]\ndefault_profile = "b"', False),
        ('profiles = ["a", "b"]\ndefault_credentials = true', False),
        ("default_credentials = true", False),
        ('profiles = ["a", "b"]\nmost_machines = 0', False),  # nothing can be launched anyway
    ],
)
def test_who_is_always_refused_without_a_profile_is_warned_of(rules: str, *, warned: bool) -> None:
    policy = parse_policy(f"{USABLE}[namespaces.art]\n{rules}\n")

    told = ["each request without --profile is refused: set default_profile to one of its profiles (a, b)"] * warned
    assert list(warnings(policy.of("art"))) == to_json(policy, "art")["warnings"] == told
    assert [line.strip() for line in lines(policy, "art")][2:3] == told or not warned
    asked = Asked(spec=Spec(), profile=policy.of("art").profile_of(Spec()), region="us-east-1")
    assert bool(policy.of("art").refusals(asked, {About.TARGET})) is warned or "most_machines = 0" in rules


def test_the_summary_names_who_can_launch_nothing_and_why() -> None:
    told = list(summary(read_policy(EXAMPLE)))

    assert told[:3] == ["every other namespace:", "  AWS profiles: sandbox", "  regions: us-east-1, eu-*"]
    assert told[7] == "namespace left: can launch nothing, because these rules allow nothing: most_requests"


@pytest.mark.parametrize("of", RULES, ids=lambda of: of.name)
def test_every_rule_says_what_it_means_where_it_allows_nothing_or_everything(of: object) -> None:
    assert of in RULES
    assert isinstance(of, Rule)
    nothing = {rule.name: rule.kind.nothing for rule in RULES}
    assert of.explained(nothing) == of.forbids
    try:
        unlimited = of.kind.read("unlimited") is None
    except ValueError:
        unlimited = False
    assert bool(of.unlimited) == unlimited
