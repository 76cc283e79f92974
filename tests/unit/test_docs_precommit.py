"""The hooks of .pre-commit-config.yaml are the project's own checks, and download nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
REPOS: list[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
ENTRIES = [hook["entry"] for repo in REPOS for hook in repo["hooks"]]


def test_every_hook_is_local() -> None:
    assert [repo["repo"] for repo in REPOS] == ["local"]
    assert {hook["language"] for repo in REPOS for hook in repo["hooks"]} == {"system"}


def test_every_hook_runs_a_tool_of_the_projects_environment() -> None:
    assert [entry for entry in ENTRIES if not entry.startswith(".venv/bin/")] == []


def test_the_hooks_are_the_checks_of_make_lint_and_make_types() -> None:
    rules = re.findall(r"^(?:lint|types):.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    checks = [command for rule in rules for command in re.findall(r"^\t@\$\(BIN\)/(.*?)(?: \.)?$", rule, re.MULTILINE)]
    hooks = [entry.removeprefix(".venv/bin/").replace(" --force-exclude", "") for entry in ENTRIES]

    assert checks
    assert sorted(hooks) == sorted(checks)
