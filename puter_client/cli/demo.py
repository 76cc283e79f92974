"""`puter demo`: everything once, on a simulated AWS, in a temporary folder."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, ClassVar

import click

from puter_client.cli.group import COMMANDS
from puter_client.cli.terminal import live, out, plain, say
from puter_client.contract.errors import PuterError
from puter_client.contract.request import Origin
from puter_client.packages import how_to_install
from puter_client.paths import Paths
from puter_client.timings import DEFAULT_TIMINGS, ClientTimings
from puter_client.view import View, WaitFor

if TYPE_CHECKING:
    from puter_client.config import ClientSettings

NEEDED = ("moto", "flask", "arq", "aioboto3")
MOST = 1_000
MOST_LISTED = 10
_TAIL_LINES = 15


class DemoFailed(PuterError):
    """The demo could not be completed."""

    exit_code: ClassVar[int] = 1


@click.command(short_help=COMMANDS["demo"][2])
@click.option(
    "--count", type=click.IntRange(1, MOST), metavar="N", default=25, show_default=True, help="Number of machines."
)
def demo(count: int) -> int:
    """Show everything once, on a simulated AWS.

    The queue, the worker, the ssh key and every call are real; only EC2 is
    simulated (by moto, on loopback). The demo needs no credentials, calls no
    AWS, works in a temporary folder and removes it.

    \b
    Example:
      puter demo --count 100
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise DemoFailed(f"{missing[0]} is not installed: {how_to_install('demo')}")
    with _interruptible():
        home = Path(tempfile.mkdtemp(prefix="puter-demo-"))
        try:
            return asyncio.run(_demo(home, count, DEFAULT_TIMINGS))
        finally:
            live.clear()
            shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP like Ctrl-C, so that the demo cleans up before it ends."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


async def _demo(home: Path, count: int, timings: ClientTimings) -> int:
    from puter_client.config import Config, client_settings
    from puter_client.local import stop_engine

    began = time.monotonic()
    aws = SimulatedAws(home, timings)
    environ = _environ(aws.url)
    environ["PUTER_HOME"] = str(home)
    settings = client_settings(environ, namespace="demo", config=Config(), paths=Paths.from_environ(environ))
    try:
        out("A simulated EC2, a Valkey and a worker, all on this computer, only for this demo:")
        await _show(settings, aws, count, timings)
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
            _tell_log(settings.paths)
        raise
    finally:
        live.show("cleaning up …")
        try:
            # A second Ctrl-C must not interrupt the clean-up.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            await asyncio.shield(stop_engine(settings.paths, say=_quiet, force=True, timings=timings))
        finally:
            aws.stop()
            live.clear()
            signal.signal(signal.SIGINT, signal.default_int_handler)
    out()
    out(f"The demo took {time.monotonic() - began:.0f} s, and everything it created is removed.")
    out("On your own AWS account, start with: puter up --tag NAME")
    return 0


def _environ(url: str) -> dict[str, str]:
    """This environment with a simulated AWS, and without the user's own settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PUTER_"))}
    return kept | {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "demo",
        "AWS_SECRET_ACCESS_KEY": "demo",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "PUTER_PACE": "off",  # moto does not limit call rates
        "PUTER_MAX_GROUP": "1",  # moto launches only one machine of a group
        "PUTER_DRAIN_S": "1",  # no work has to be finished
    }


async def _show(settings: ClientSettings, aws: SimulatedAws, count: int, timings: ClientTimings) -> None:
    from puter_client.cli import follow
    from puter_client.cli.session import connected
    from puter_client.cli.specs import Keys, SshSources
    from puter_client.client import MachineRequest
    from puter_client.contract.spec import Spec

    aws.start()
    tags = [f"demo-{number}" for number in range(count)]
    spec = Keys(settings, None).into(Spec(ssh_from=SshSources(settings.environ)(())))
    requests = [MachineRequest(tag, spec) for tag in tags]
    async with connected(settings, tell=live.show, timings=timings) as client:
        await aws.ready()
        live.clear()
        for title, listed in (
            (f"$ puter submit --tag 'demo-{{i}}' --count {count} --wait running", MOST_LISTED),
            ("The same command again, which finds every machine:", 0),
        ):
            out()
            out(title)
            began = time.monotonic()
            in_flight = follow.InFlight(settings, WaitFor.RUNNING)
            await follow.request(client, settings, requests, in_flight, origin=Origin.SUBMIT)
            views = await follow.follow(client, in_flight, timeout_s=timings.demo_wait_s, tags=tags)
            _tell(views, time.monotonic() - began, listed)
            if any(follow.failed(view, WaitFor.RUNNING) for view in views):
                raise DemoFailed("not every machine was launched")
        _tell_ways(views[0], settings.paths)


def _tell(views: Sequence[View], took_s: float, listed: int) -> None:
    from puter_client.cli.follow import outcomes
    from puter_client.cli.groups import counted
    from puter_client.cli.table import line_of, table
    from puter_client.cli.terminal import columns
    from puter_client.contract.outcome import Outcome

    if listed:
        for line in table([line_of(view, time.time()) for view in views[:listed]], columns()):
            out(line)
        if len(views) > listed:
            out(f"+{len(views) - listed:,} more")
    created = sum(view.outcome is Outcome.CREATED for view in views)
    told = outcomes(views) + ("" if created else ", 0 created")
    out(f"{told}; {counted(views)} after {took_s:.1f} s")


def _tell_ways(view: View, paths: Paths) -> None:
    from puter_client.ssh_commands import rsync_command, ssh_command

    if view.record is None:
        return
    out()
    out("How to reach one of them (a simulated machine does not answer):")
    for command in (ssh_command(view.record), rsync_command(view.record)):
        out(f"  {plain(command or '')}")
    out(f"The logs are in {paths.logs}:")
    for log in sorted(paths.logs.glob("*.jsonl")):
        out(f"  {log.name}  {log.read_bytes().count(10):,} lines")


def _tell_log(paths: Paths) -> None:
    """Print the end of the worker's logs, which help to find out why the demo failed."""
    live.clear()
    for name in ("worker.out", "worker.jsonl"):
        with suppress(OSError), (paths.logs / name).open(encoding="utf-8", errors="replace") as log:
            for line in deque(log, maxlen=_TAIL_LINES):
                say(f"{name}: {plain(line)}")


def _quiet(_text: str) -> None:
    pass


class SimulatedAws:
    """A moto server for this demo, on a free port of loopback."""

    def __init__(self, folder: Path, timings: ClientTimings) -> None:
        self._timings = timings
        self._log = folder / "moto.log"
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start the server; `ready` waits until it answers."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - no shell reads it
                [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_without_settings(os.environ),
                start_new_session=True,  # the demo handles Ctrl-C
            )

    async def ready(self) -> None:
        """Wait until the server answers.

        Raises:
            DemoFailed: it does not answer.
        """
        until = time.monotonic() + self._timings.demo_aws_starts_within_s
        while not _answers(self._port):
            if self._process is None or self._process.poll() is not None or time.monotonic() > until:
                words = self._log.read_text(errors="replace").strip().splitlines()
                raise DemoFailed(
                    f"the simulated AWS failed to start: {plain(words[-1]) if words else 'it wrote nothing'}"
                )
            await asyncio.sleep(self._timings.look_every_s)

    def stop(self) -> None:
        """End the server."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(self._timings.demo_aws_ends_within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if not name.startswith(("AWS_", "MOTO_", "PUTER_"))}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
