"""`puter up`: ensure one machine, wait for it, print how to reach it."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import click
import msgspec

from puter_client.cli.group import COMMANDS, IMPLICIT
from puter_client.cli.options import (
    again_option,
    dry_run_option,
    json_option,
    machine_options,
    namespace_option,
    timeout_option,
    wait_option,
)
from puter_client.cli.tails import last_lines
from puter_client.cli.terminal import out, out_json, plain, say
from puter_client.config import ClientSettings
from puter_client.contract.key import check_tag
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import ENDED
from puter_client.contract.request import Origin
from puter_client.view import View, WaitFor

if TYPE_CHECKING:
    from puter_client.cli.follow import InFlight
    from puter_client.client import MachineRequest

DEFAULT_TIMEOUT = "10m"
LAST_LINES = 5  # of the output of a workload that did not succeed


@click.command(short_help=COMMANDS["up"][2])
@click.argument("tag_argument", metavar="[TAG]", required=False)
@click.option("-t", "--tag", metavar="TAG", help="The machine's name; the same name again finds the same machine.")
@namespace_option
@machine_options
@wait_option("running")
@timeout_option(DEFAULT_TIMEOUT)
@again_option
@dry_run_option
@json_option
@click.pass_context
def up(
    ctx: click.Context,
    /,
    tag_argument: str | None,
    tag: str | None,
    namespace: str | None,
    wait: str,
    timeout: float | None,
    again: bool,
    dry_run: bool,
    as_json: bool,
    **machine: Any,
) -> int:
    """Ensure one machine, wait for it, print its ssh and rsync commands.

    A machine that exists under this tag is found, not launched again. It ends
    itself after its --ttl, even if this command is interrupted.

    \b
    Examples:
      puter up --tag build
      puter up build --instance-type c7i.large --ttl 2h
      puter up --profile work --region eu-west-1 -t train --spot
      puter up -t job --run 'make all' -e TOKEN --ssh-from none

    Options override the environment, which overrides config.toml. Exit code
    1: it failed, or the tag has another machine; 4: it was not ready in time.
    """
    chosen = _tag(ctx, tag_argument, tag)
    from puter_client.cli import specs
    from puter_client.cli.follow import InFlight, run
    from puter_client.cli.session import settings_of
    from puter_client.client import MachineRequest

    settings = settings_of(namespace)
    options = specs.given_fields(machine, settings.environ)
    sources = specs.SshSources(settings.environ, look_up=not dry_run)
    spec = specs.one_spec(settings, options, sources)
    key_file = specs.public_key_file(settings, options)
    keys = specs.Keys(settings, key_file)
    if dry_run:
        if key_file is not None:  # any other key would be made
            spec = keys.into(spec)
        _tell_dry(specs.described(chosen, settings.namespace, spec), auto=sources.skipped, as_json=as_json)
        return 0
    specs.warn_of([spec], say)
    spec = keys.into(spec)
    in_flight = InFlight(settings, WaitFor(wait), [chosen], as_json=as_json)
    return run(
        lambda: _up(
            settings,
            in_flight,
            MachineRequest(chosen, spec, given=specs.given_names(spec, options)),
            timeout,
            again=again,
            as_json=as_json,
        ),
        in_flight,
    )


def _tag(ctx: click.Context, argument: str | None, option: str | None) -> str:
    if ctx.meta.get(IMPLICIT) and argument is not None:
        hint = f"write it first: puter {argument} …" if argument in COMMANDS else "name the tag with --tag"
        raise click.UsageError(f"unexpected {argument[:60]!r}; {hint}", ctx)
    if argument is not None and option is not None and argument != option:
        raise click.UsageError(f"two tags, {argument[:60]!r} and {option[:60]!r}: keep one (many: puter submit)", ctx)
    tag = argument if argument is not None else option
    if tag is None:
        raise click.UsageError("no tag: name the machine with --tag NAME", ctx)
    return check_tag(tag)


def _tell_dry(fields: dict[str, Any], *, auto: bool, as_json: bool) -> None:
    if auto:
        fields["ssh_from"] = [*fields.get("ssh_from", []), "auto"]
    if as_json:
        out_json(fields)
        return
    out(f"would request {fields.pop('namespace')}/{fields.pop('tag')} (nothing was requested):")
    for name, value in fields.items():
        shown = "never ends itself" if value is None else value
        out(f"  {name}: {plain(shown if isinstance(shown, str) else msgspec.json.encode(shown).decode())}")


async def _up(
    settings: ClientSettings,
    in_flight: InFlight,
    request: MachineRequest,
    timeout_s: float | None,
    *,
    again: bool,
    as_json: bool,
) -> int:
    from puter_client.cli import follow
    from puter_client.cli.session import connected

    began = time.monotonic()
    async with connected(settings, waits=True) as client:
        await follow.request(client, settings, [request], in_flight, origin=Origin.UP, again=again)
        (view,) = await follow.follow(client, in_flight, timeout_s=timeout_s, tags=[request.tag])
        for notice in await follow.notices(client, [view]):
            say(f"note: {notice}")
        if follow.is_ordered(view) and in_flight.wait is WaitFor.RUNNING:
            from puter_client.cli.orders import until_confirmed

            left_s = math.inf if timeout_s is None else timeout_s - (time.monotonic() - began)
            view = await until_confirmed(client, view, at_most_s=min(client.timings.order_quiet_s, left_s))
    for notice in follow.applied([view], time.time()):
        say(f"note: {notice}")
    for notice in follow.not_applied([view], {request.tag: request.spec}):
        say(f"note: {notice}")
    if as_json:
        out_json(view.to_json())
    record = view.record
    gone = record is not None and record.phase in ENDED and not record.has_workload
    if follow.failed(view, in_flight.wait) or (gone and in_flight.wait is not WaitFor.QUEUED):
        say(follow.why_not(view))
        if last := last_lines(record, LAST_LINES):
            say("\n".join(f"  {line}" for line in last))
            say(f"all that is known of its output: {settings.command(f'logs {view.tag}')}")
        return 1
    if not as_json:
        for line in success(view, settings, time.time()):
            out(line)
    return 0


def success(view: View, settings: ClientSettings, now: float) -> list[str]:
    """What `up` prints of a machine that runs, or is as far on its way as `--wait` says, or has ended well."""
    from puter_client.cli.when import ago, clock, rough_duration
    from puter_client.ssh_commands import rsync_command, ssh_command

    record = view.record
    if record is None:
        return [f"{view.tag}: {plain(view.reason or '')}"]
    found = {
        Outcome.CREATED: "created",
        Outcome.EXISTING: "found: the same instance as before",
        Outcome.JOINED: "found: it was requested before",
    }.get(view.outcome or Outcome.CREATED, str(view.outcome))
    facts = [record.instance_id, record.instance_type, record.availability_zone or record.region]
    lines = [f"tag       {record.namespace}/{record.tag} ({found})"]
    if record.instance_id:
        lines.append("instance  " + "  ".join(plain(fact) for fact in facts if fact))
    if record.result is not None:
        lines.append(f"workload  {record.result.value}; its output: {settings.command(f'logs {view.tag}')}")
    if record.phase in ENDED:
        return [*lines, f"ended     {ago(record.ended_at or record.changed_at, now)}"]
    if name := record.public_dns_name or record.public_ip or record.private_ip:
        lines.append(f"address   {plain(name)}")
    if record.expires_at is not None and record.expires_at <= now:
        lines.append(f"runs      until {clock(record.expires_at, now)}, {ago(record.expires_at, now)}")
    elif record.expires_at is not None:
        lines.append(
            f"runs      until {clock(record.expires_at, now)}, {rough_duration(record.expires_at - now)} from now"
        )
    elif record.never_ends:
        lines.append("runs      until somebody ends it")
    reached = view.record_to_reach or record
    ssh, rsync = ssh_command(reached), rsync_command(reached)
    if ssh and rsync:
        return [*lines, plain(ssh), plain(rsync)]
    reason = f" ({plain(view.reason)})" if view.reason else ""
    return [
        *lines,
        f"phase     {record.phase.value}{reason}",
        f"no address yet: {settings.command(f'wait {view.tag}')}",
    ]
