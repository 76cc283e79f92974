"""Options that several commands share, each written once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from puter_client.contract.duration import parse_duration_s

F = TypeVar("F", bound=Callable[..., Any])


def _all(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def _seconds(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    return None if value is None else float(parse_duration_s(value, what="--timeout"))


namespace_option = click.option(
    "-n", "--namespace", metavar="NAME", help="Whose machines: a person's or team's room. [PUTER_NAMESPACE]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be requested; touch nothing.")
again_option = click.option("--again", is_flag=True, help="Launch anew a tag that has ended, whatever its result.")


def timeout_option(default: str | None) -> Callable[[F], F]:
    """`--timeout`, in seconds for the command."""
    shown = f"  [default: {default}]" if default else "  [default: none]"
    text = f"How long to wait, like 90s or 10m; the request goes on.{shown}"
    return click.option("--timeout", metavar="TIME", default=default, callback=_seconds, help=text)


def wait_option(default: str, name: str = "--wait") -> Callable[[F], F]:
    """How far a machine has to come for the command to return."""
    choices = ["queued", "launched", "running"] + (["terminated"] if name == "--for" else [])
    return click.option(
        name, "wait", type=click.Choice(choices), default=default, show_default=True, help="How far to wait."
    )


# In the order of contract.fields.FIELDS; the names of the parameters are its names.
machine_options = _all(
    click.option("--profile", metavar="NAME", help="AWS profile of the worker's host.  [its default credentials]"),
    click.option("--region", metavar="NAME", help="Like us-east-1.  [the profile's own, else us-east-1]"),
    click.option("--instance-type", metavar="TYPE", multiple=True, help="Like c7i.large; more: in turn.  [t3.micro]"),
    click.option("--os", metavar="al2023|al2", help="Newest Amazon Linux of that kind.  [al2023]"),
    click.option("--ami", metavar="ID", help="This image, whatever --os says."),
    click.option("--subnet", metavar="ID", multiple=True, help="Like subnet-0123…; more: in turn.  [default VPC]"),
    click.option("--spot/--no-spot", default=None, help="A Spot instance."),
    click.option("--alone/--no-alone", default=None, help="Shares its launch, and so its user data, with none."),
    click.option("--disk", metavar="GIB", help="Root disk in GiB.  [the image's]"),
    click.option("--instance-profile", metavar="NAME", help="IAM instance profile of the machine."),
    click.option("--run", metavar="CMD", help="The workload: a shell command, run once Docker is up."),
    click.option("-e", "--env", metavar="K=V|NAME", multiple=True, help="Workload's variable; NAME alone: from here."),
    click.option("--user-data", metavar="FILE", help="Boot script or cloud-config, run after Puter's part."),
    click.option("--give-up-after", metavar="TIME", help="How long to wait for missing capacity.  [15m]"),
    click.option("--ttl", metavar="TIME", help="Ends itself so long after its launch: 90s, 60m, 1h30m, 2d.  [60m]"),
    click.option("--no-shutdown", is_flag=True, default=None, help="Stays until somebody ends it."),
    click.option("--ssh-from", metavar="CIDR|auto|none", multiple=True, help="Who may use ssh.  [auto: this machine]"),
    click.option("--key-name", metavar="NAME", help="EC2 key pair.  [puter-v1]"),
    click.option("--public-key", metavar="FILE", help="Your own key's public half.  [a key that Puter makes]"),
    click.option("--security-group-name", metavar="NAME", help="Group that lets ssh in.  [puter-v1]"),
    click.option("--aws-tag", "aws_tags", metavar="K=V", multiple=True, help="Further EC2 tag; may be repeated."),
)  # fmt: skip

selection_options = _all(
    click.argument("tags", nargs=-1, metavar="[TAG]..."),
    click.option("--batch", metavar="ID|last", help="All tags of one submission."),
)
