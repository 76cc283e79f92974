"""What operations says of the IAM policy's Deny is what the policy denies, and whom it is not for."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
POLICY = json.loads((ROOT / "deploy" / "iam-policy.json").read_text())
SECTION = (ROOT / "docs" / "operations.md").read_text().partition("## AWS permissions\n")[2].partition("\n## ")[0]
DENIES = [statement for statement in POLICY["Statement"] if statement["Effect"] == "Deny"]


def test_the_page_names_the_statement_that_denies_and_all_that_it_denies() -> None:
    (deny,) = DENIES

    assert f"`{deny['Sid']}`" in SECTION
    assert set(re.findall(r"`([A-Z][a-z]+\*)`", SECTION)) == {action.removeprefix("ec2:") for action in deny["Action"]}


def test_the_page_warns_of_giving_it_to_a_person() -> None:
    assert re.search(r"never\s+to\s+a\s+person's\s+own\s+user\s+or\s+role", SECTION)
