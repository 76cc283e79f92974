"""`puter admin policy`: checks and explains a policy file on the host of the workers; asks neither Redis nor AWS."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from puter_client.cli.options import json_option
from puter_client.cli.terminal import out, out_json, say
from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import check_namespace

if TYPE_CHECKING:
    from puter_client.policy.policy import Policy

_POLICY_VARIABLE = "PUTER_POLICY"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def policy() -> None:
    """Check and explain the policy file of a shared host's workers.

    The file says what each namespace may request. Workers read the one that
    PUTER_POLICY names.
    """


@policy.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@json_option
def check(file: Path | None, as_json: bool) -> int:
    """Check a policy file, and tell what each namespace can do.

    Without FILE, the one that PUTER_POLICY names. Every problem is told, with its
    line; exit code 2 if there is one. A namespace that can launch nothing is
    named, with the rules that forbid it.

    \b
    Examples:
      puter admin policy check policy.toml
      puter admin policy check policy.toml --json | jq -r 'select(.lacking!=[]).namespace'
    """
    from puter_client.policy.explain import summary, to_json, warnings, whose
    from puter_client.policy.policy import EVERYONE

    path, policy = _read(file, "as FILE")
    tables = (EVERYONE, *policy.namespaces)
    if as_json:
        for name in tables:
            out_json(to_json(policy, name))
        return 0
    for line in summary(policy):
        out(line)
    for name in tables:
        for warning in warnings(policy.of(name)):
            say(f"warning: {whose(name)}: {warning}")
    out(f"{path}: ok")
    return 0


@policy.command()
@click.argument("namespace")
@click.option("--policy", "file", type=click.Path(path_type=Path), metavar="FILE", help="The file.  [PUTER_POLICY]")
@json_option
def explain(namespace: str, file: Path | None, as_json: bool) -> int:
    """Tell what a namespace may request, with all defaults resolved.

    Rules are marked "own" if the namespace's table has them, "*" if they are those
    of every namespace, "-" if nobody has said them: then they allow nothing.

    \b
    Example:
      puter admin policy explain team-a --policy policy.toml
    """
    from puter_client.policy.explain import lines, to_json

    _, policy = _read(file, "with --policy")
    check_namespace(namespace)
    if as_json:
        out_json(to_json(policy, namespace))
        return 0
    for line in lines(policy, namespace):
        out(line)
    return 0


def _read(file: Path | None, how: str) -> tuple[Path, Policy]:
    """The policy in a file, by default in the workers'."""
    from puter_client.policy.file import read_policy

    path = file or (Path(named) if (named := os.environ.get(_POLICY_VARIABLE)) else None)
    if path is None:
        raise InvalidInput(f"no policy file: name it {how}, or set {_POLICY_VARIABLE}")
    return path, read_policy(path)
