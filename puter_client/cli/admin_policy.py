"""`puter admin policy`: checks and explains a policy file on the host of the workers; asks neither Redis nor AWS."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from puter_client.cli.options import json_option
from puter_client.cli.terminal import out, out_json
from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import check_namespace

if TYPE_CHECKING:
    from puter_client.policy.policy import Allowed

_POLICY_VARIABLE = "PUTER_POLICY"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def policy() -> None:
    """Check and explain the policy file of a shared host's workers.

    The file says what each namespace may request. Workers read the one that
    PUTER_POLICY names.
    """


@policy.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> int:
    """Check a policy file, and tell what each namespace can do.

    Every problem is told, with its line; exit code 2 if there is one. A
    namespace that can launch nothing is named, with the rules that forbid it.

    \b
    Example:
      puter admin policy check policy.toml
    """
    from puter_client.policy.explain import summary
    from puter_client.policy.file import read_policy

    for line in summary(read_policy(file)):
        out(line)
    out(f"{file}: ok")
    return 0


@policy.command()
@click.argument("namespace")
@click.option("--policy", "file", type=click.Path(path_type=Path), metavar="FILE", help="The file.  [PUTER_POLICY]")
@json_option
def explain(namespace: str, file: Path | None, as_json: bool) -> int:
    """Tell what a namespace may request, with all defaults resolved.

    \b
    Example:
      puter admin policy explain team-a --policy policy.toml
    """
    from puter_client.policy.explain import lines, to_json
    from puter_client.policy.file import read_policy

    if file is None and not os.environ.get(_POLICY_VARIABLE):
        raise InvalidInput(f"no policy file: name it with --policy, or set {_POLICY_VARIABLE}")
    allowed: Allowed = read_policy(file or Path(os.environ[_POLICY_VARIABLE])).of(check_namespace(namespace))
    if as_json:
        out_json(to_json(allowed))
        return 0
    for line in lines(allowed):
        out(line)
    return 0
