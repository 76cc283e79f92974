"""The policy allows what the code calls, and no more; and nobody deletes."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from puter_worker.ec2.calls import Action
from puter_worker.ec2.tags import EXPIRES_AT, ORDER, OWN

ROOT = Path(__file__).parents[2]
POLICY = json.loads((ROOT / "deploy" / "iam-policy.json").read_text())
SOURCES = sorted((ROOT / "puter_worker").rglob("*.py")) + sorted((ROOT / "puter_client").rglob("*.py"))
CALLS = ROOT / "puter_worker" / "ec2" / "calls.py"
MANAGED = {"aws:ResourceTag/puter:managed": "true"}
# The SDK is known to these alone; a call from elsewhere would escape the tests below.
KNOW_THE_SDK = {
    "aws_settings.py", "calls.py", "connection.py", "core.py", "credentials/process.py", "credentials/profile.py",
    "credentials/providers.py", "credentials/unresolved.py", "errors.py", "parsing.py", "session.py",
}  # fmt: skip


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def statements(effect: str, action: str) -> list[dict[str, Any]]:
    return [s for s in POLICY["Statement"] if s["Effect"] == effect and action in listed(s["Action"])]


def calls_to_ec2(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls `….call(…)` and `….pages(…)` of something named caller."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            receiver = ast.unparse(node.func.value)
            if node.func.attr in {"call", "pages"} and receiver.lower().endswith("caller"):
                yield node


def actions_in_code() -> set[str]:
    found = set()
    for path in SOURCES:
        for call in calls_to_ec2(ast.parse(path.read_text())):
            action = call.args[0] if call.args else None
            assert isinstance(action, ast.Constant), f"{path.name}:{call.lineno}: write the action out"
            found.add(str(action.value))
    return found


def test_each_action_in_the_code_is_allowed_and_each_allowed_one_is_in_the_code() -> None:
    allowed = {
        action.removeprefix("ec2:")
        for statement in POLICY["Statement"]
        if statement["Effect"] == "Allow"
        for action in listed(statement["Action"])
        if action.startswith("ec2:")
    }

    assert allowed == actions_in_code()


def test_the_actions_that_types_allow_are_those_in_the_code() -> None:
    assert set(get_args(Action)) == actions_in_code()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_sdk_is_known_to_few(path: Path) -> None:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])

    knows = names & {"boto3", "botocore", "aioboto3", "aiobotocore"}
    assert not knows or path in {CALLS.parent / name for name in KNOW_THE_SDK}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_deleted_terminated_or_revoked(path: Path) -> None:
    actions = r"\b(?:Delete|Terminate|Revoke)(?!OnTermination)[A-Z][A-Za-z]+|\.(?:delete|terminate|revoke)_[a-z_]+\("

    assert re.findall(actions, path.read_text()) == []


def test_deleting_terminating_and_revoking_are_denied() -> None:
    (denied,) = [s for s in POLICY["Statement"] if s["Effect"] == "Deny"]

    assert sorted(denied["Action"]) == ["ec2:Delete*", "ec2:Revoke*", "ec2:Terminate*"]
    assert denied["Resource"] == "*"
    assert "Condition" not in denied


def test_machines_are_launched_marked_and_with_imds_v2_alone() -> None:
    machines = [s for s in statements("Allow", "ec2:RunInstances") if "instance/" in str(s["Resource"])]

    (statement,) = [s for s in machines if any(r.endswith(":instance/*") for r in listed(s["Resource"]))]
    assert statement["Condition"] == {
        "StringEquals": {"aws:RequestTag/puter:managed": "true", "ec2:MetadataHttpTokens": "required"}
    }


def test_what_is_made_is_marked() -> None:
    made = ("volume/", "spot-instances-request/", "key-pair/", "security-group/")
    for action in ("ec2:RunInstances", "ec2:CreateKeyPair", "ec2:ImportKeyPair", "ec2:CreateSecurityGroup"):
        for statement in statements("Allow", action):
            # A launch uses key pairs and groups that are there; it makes volumes and Spot requests.
            kinds = made[:2] if action == "ec2:RunInstances" else made
            if any(f":{kind}" in resource for kind in kinds for resource in listed(statement["Resource"])):
                assert statement["Condition"]["StringEquals"]["aws:RequestTag/puter:managed"] == "true"


def test_tags_are_written_at_birth_or_as_labels_of_its_own_machines() -> None:
    birth, label = statements("Allow", "ec2:CreateTags")

    assert birth["Condition"].keys() == {"StringEquals"}
    assert birth["Condition"]["StringEquals"].keys() == {"ec2:CreateAction"}
    assert label["Condition"]["StringEquals"] == MANAGED
    assert label["Condition"]["ForAllValues:StringEquals"] == {"aws:TagKeys": [*OWN, ORDER, EXPIRES_AT]}
    assert label["Condition"]["Null"] == {"aws:TagKeys": "false"}
    assert listed(label["Resource"]) == ["arn:aws:ec2:*:*:instance/*"]


@pytest.mark.parametrize(
    "action", ["ec2:AuthorizeSecurityGroupIngress", "ec2:ModifyInstanceAttribute", "ec2:GetConsoleOutput"]
)
def test_only_what_puter_made_is_changed_or_read_from(action: str) -> None:
    (statement,) = statements("Allow", action)

    assert statement["Condition"] == {"StringEquals": MANAGED}


def test_one_role_may_be_passed_to_machines() -> None:
    (statement,) = statements("Allow", "iam:PassRole")

    assert statement["Resource"] == "arn:aws:iam::*:role/puter-machine"
    assert statement["Condition"] == {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}


def test_no_allowed_action_has_a_wildcard() -> None:
    allowed = [a for s in POLICY["Statement"] if s["Effect"] == "Allow" for a in listed(s["Action"])]

    assert [action for action in allowed if "*" in action] == []


def test_the_policy_fits_into_one_managed_policy() -> None:
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html: 6,144 characters but for spaces
    assert len(re.sub(r"\s", "", json.dumps(POLICY))) <= 6_144
