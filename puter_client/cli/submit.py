"""`puter submit`: request many machines at once."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from puter_client.cli.group import COMMANDS
from puter_client.cli.options import (
    again_option,
    dry_run_option,
    json_option,
    machine_options,
    namespace_option,
    timeout_option,
    wait_option,
)
from puter_client.cli.terminal import out, out_json, say
from puter_client.config import ClientSettings
from puter_client.contract.errors import InvalidInput, WaitTimedOut
from puter_client.contract.request import MAX_BATCH, Origin
from puter_client.view import WaitFor

if TYPE_CHECKING:
    from puter_client.batch import Batch
    from puter_client.cli.follow import InFlight
    from puter_client.cli.specs import Keys, SshSources
    from puter_client.client import MachineRequest


@click.command(short_help=COMMANDS["submit"][2])
@click.argument("file", metavar="[FILE|-]", required=False)
@click.option("-t", "--tag", metavar="'NAME-{i}'", help="Without a file: tags numbered from 0.")
@click.option("--count", type=int, metavar="N", help="Without a file: the number of machines.  [1]")
@click.option("--format", "form", type=click.Choice(["yaml", "jsonl", "csv"]), help="The file's format.  [by its name]")
@namespace_option
@machine_options
@wait_option("queued")
@timeout_option(None)
@again_option
@click.option("--retry-failed", is_flag=True, help="Launch a tag again whose workload did not succeed.")
@click.option(
    "--max-parallel", type=click.IntRange(1, MAX_BATCH), metavar="N", help="At most so many of them at a time."
)
@click.option(
    "--max-fails", type=click.IntRange(1, MAX_BATCH), metavar="N", help="Cancel and stop the rest once N have failed."
)
@click.option("--keep-running", is_flag=True, help="With --max-fails: leave what runs then.")
@dry_run_option
@json_option
def submit(
    file: str | None,
    tag: str | None,
    count: int | None,
    form: str | None,
    namespace: str | None,
    wait: str,
    timeout: float | None,
    again: bool,
    retry_failed: bool,
    max_parallel: int | None,
    max_fails: int | None,
    keep_running: bool,
    dry_run: bool,
    as_json: bool,
    **machine: Any,
) -> int:
    """Request many machines: a batch file (YAML, JSONL, CSV), or a numbered tag.

    All of a file is checked first; if anything in it cannot be used, nothing
    is submitted. Submitting it again launches nothing that exists already.
    An option applies to the entries that do not set its field themselves.

    \b
    Examples:
      puter submit batch.yaml
      my-script | puter submit - --region eu-west-1
      puter submit --tag 'sweep-{i}' --count 100 --run 'python x.py {i}'
      puter submit batch.yaml --wait running --timeout 15m

    Returns when every request has its answer (--wait queued). Exit code 1: some
    failed, conflicted or were refused; 4: not all came in time.
    """
    if (file is None) == (tag is None):
        raise click.UsageError("name either a file (- is standard input) or --tag 'NAME-{i}' --count N")
    if file is not None and count is not None:
        raise click.UsageError("--count goes with --tag, not with a file")
    from puter_client.cli.follow import InFlight, run
    from puter_client.cli.session import settings_of
    from puter_client.cli.specs import Keys, SshSources, given_fields, public_key_file
    from puter_client.client import MachineRequest

    settings = settings_of(namespace)
    options = given_fields(machine, settings.environ)
    sources = SshSources(settings.environ, look_up=not dry_run)
    fields = {name: value for name, value in options.items() if name != "public_key"}
    if tag is not None:
        batch = _generated(tag, 1 if count is None else count, settings, fields, sources)
    else:
        batch = _read(file or "", form, settings, fields, sources)
    max_fails = max_fails or batch.max_fails
    if keep_running and max_fails is None:
        raise click.UsageError("--keep-running goes with --max-fails N, or with max_fails in the file")
    settings = _in_namespace(settings, batch.namespace)
    key_file = public_key_file(settings, options)
    keys = Keys(settings, key_file)
    if dry_run:
        own = key_file is not None  # any other key would be made
        requests = [MachineRequest(entry.tag, keys.into(entry.spec) if own else entry.spec) for entry in batch.entries]
        return _tell_dry(batch, requests, settings, auto=sources.skipped, as_json=as_json)
    requests = _requested(batch, keys, sources)
    in_flight = InFlight(settings, WaitFor(wait), as_json=as_json)
    how = _How(
        timeout_s=timeout,
        again=again,
        retry_failed=retry_failed,
        max_parallel=max_parallel or batch.max_parallel,
        max_fails=max_fails,
        keep_running=keep_running,
        as_json=as_json,
    )
    return run(lambda: _submit(settings, in_flight, requests, how), in_flight)


class _How(NamedTuple):
    """How a batch is submitted and followed."""

    timeout_s: float | None
    again: bool
    retry_failed: bool
    max_parallel: int | None
    max_fails: int | None
    keep_running: bool
    as_json: bool


def _generated(tag: str, count: int, settings: ClientSettings, fields: Mapping[str, Any], sources: SshSources) -> Batch:
    from puter_client.batch import generate

    return generate(tag, count, fields, config=settings.defaults, resolve_ssh_from=sources)


def _read(
    file: str, form: str | None, settings: ClientSettings, fields: Mapping[str, Any], sources: SshSources
) -> Batch:
    from puter_client.batch import read_batch, read_source

    text = read_source(file)
    return read_batch(file, text, overrides=fields, config=settings.defaults, format=form, resolve_ssh_from=sources)


def _in_namespace(settings: ClientSettings, named: str | None) -> ClientSettings:
    import msgspec

    if named is None or named == settings.namespace:
        return settings
    if settings.named_by_option:
        raise InvalidInput(f"the file says namespace {named}, --namespace says {settings.namespace}: keep one")
    return msgspec.structs.replace(settings, namespace=named, named_by_option=True)


def _requested(batch: Batch, keys: Keys, sources: SshSources) -> list[MachineRequest]:
    from puter_client.cli.specs import given_names, warn_of, without_a_rule
    from puter_client.client import MachineRequest

    specs = [entry.spec for entry in batch.entries]
    if sources.unknown is not None:
        say(without_a_rule(specs, sources.unknown))
    warn_of(specs, say)
    return [
        MachineRequest(entry.tag, keys.into(entry.spec), given=given_names(entry.spec, entry.given))
        for entry in batch.entries
    ]


def _tell_dry(
    batch: Batch, requests: Sequence[MachineRequest], settings: ClientSettings, *, auto: bool, as_json: bool
) -> int:
    from puter_client.cli.follow import MOST_LISTED
    from puter_client.cli.specs import described

    if as_json:
        for one in requests:
            out_json(described(one.tag, settings.namespace, one.spec))
        return 0
    out(f"would request {len(batch.entries):,} in namespace {settings.namespace} (nothing was requested):")
    for entry in batch.entries[:MOST_LISTED]:
        out(f"  {entry.tag}  {entry.spec.instance_type}  {entry.where}")
    if len(batch.entries) > MOST_LISTED:
        out(f"  +{len(batch.entries) - MOST_LISTED:,} more")
    if auto:
        out("ssh from: this machine's own address, looked up when requested")
    return 0


async def _submit(settings: ClientSettings, in_flight: InFlight, requests: Sequence[MachineRequest], how: _How) -> int:
    from puter_client.cli import follow
    from puter_client.cli.session import connected

    async with connected(settings, waits=True) as client:
        batch_id = await follow.request(
            client,
            settings,
            requests,
            in_flight,
            origin=Origin.SUBMIT,
            again=how.again,
            retry_failed=how.retry_failed,
            max_parallel=how.max_parallel,
            max_fails=how.max_fails,
            keep_running=how.keep_running,
        )
        tags = [one.tag for one in requests]
        try:
            views = await follow.follow(client, in_flight, timeout_s=how.timeout_s, tags=tags)
        except WaitTimedOut:
            if not how.as_json:
                follow.tell_end(in_flight.views, in_flight.wait, as_json=False)
            raise
        if in_flight.wait is not WaitFor.QUEUED:
            for notice in await follow.notices(client, views):
                say(f"note: {notice}")
    for notice in follow.applied(views, time.time()):
        say(f"note: {notice}")
    for notice in follow.not_applied(views, {one.tag: one.spec for one in requests}):
        say(f"note: {notice}")
    code = follow.tell_end(views, in_flight.wait, as_json=how.as_json)
    if not how.as_json:
        # A file may name a namespace that the next `puter status` does not look into unless it is told to.
        out(f"batch {batch_id}" + (f" in namespace {settings.namespace}" if settings.named_by_option else ""))
        if in_flight.wait is WaitFor.QUEUED:
            out(f"follow it: {settings.command(f'wait --batch {batch_id}')}")
            out(f"           {settings.command(f'status --batch {batch_id} --watch')}")
    return code
