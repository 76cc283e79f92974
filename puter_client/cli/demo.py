"""`puter demo`: everything once, on a simulated AWS, in a folder that is gone afterwards."""

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
from puter_client.paths import Paths
from puter_client.view import View, WaitFor

if TYPE_CHECKING:
    from puter_client.config import ClientSettings

NEEDED = ("moto", "flask", "arq", "aioboto3")
MOST = 1_000
MOST_LISTED = 10
TIMEOUT_S = 120.0
_STARTS_WITHIN_S = 60.0
_ENDS_WITHIN_S = 10.0
_POLL_S = 0.05
_TAIL_LINES = 15


class DemoFailed(PuterError):
    """The demonstration did not come to its end."""

    exit_code: ClassVar[int] = 1


@click.command(short_help=COMMANDS["demo"][2])
@click.option(
    "--count", type=click.IntRange(1, MOST), metavar="N", default=25, show_default=True, help="How many machines."
)
def demo(count: int) -> int:
    """Everything once, on a simulated AWS, in a folder that is gone afterwards.

    Real are the queue, the worker, the key and every call; simulated is EC2
    (moto, on loopback). No credentials are needed, nothing reaches AWS, and
    nothing is left behind.

    \b
    Example:
      puter demo --count 100
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise DemoFailed(f"{missing[0]} is not installed: `pip install '.[demo]'` in Puter's folder")
    with _interruptible():
        home = Path(tempfile.mkdtemp(prefix="puter-demo-"))
        try:
            return asyncio.run(_demo(home, count))
        finally:
            live.clear()
            shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Whatever asks the demo to end has it put everything in order first."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


async def _demo(home: Path, count: int) -> int:
    from puter_client.config import Config, client_settings
    from puter_client.local import stop_engine

    began = time.monotonic()
    aws = SimulatedAws(home)
    environ = _environ(aws.url)
    environ["PUTER_HOME"] = str(home)
    settings = client_settings(environ, namespace="demo", config=Config(), paths=Paths.from_environ(environ))
    try:
        out("A simulated EC2, a Valkey and a worker, all on this host, for now:")
        await _show(settings, aws, count)
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
            _tell_log(settings.paths)
        raise
    finally:
        live.show("putting everything away …")
        try:
            # Not to be cut short by a second Ctrl-C: what was started has to go.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            await asyncio.shield(stop_engine(settings.paths, say=_quiet, force=True))
        finally:
            aws.stop()
            live.clear()
            signal.signal(signal.SIGINT, signal.default_int_handler)
    out()
    out(
        f"All of it is gone again, after {time.monotonic() - began:.0f} s. On your own AWS account: puter up --tag NAME"
    )
    return 0


def _environ(url: str) -> dict[str, str]:
    """This environment with an AWS that is simulated, and nothing of the user's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PUTER_"))}
    return kept | {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "demo",
        "AWS_SECRET_ACCESS_KEY": "demo",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "PUTER_PACE": "off",  # moto has no request rates
        "PUTER_MAX_GROUP": "1",  # and of a group's call it grants one machine
        "PUTER_DRAIN_S": "1",  # nothing is left for another worker
    }


async def _show(settings: ClientSettings, aws: SimulatedAws, count: int) -> None:
    from puter_client.cli import follow
    from puter_client.cli.session import connected
    from puter_client.cli.specs import Keys, SshSources
    from puter_client.client import MachineRequest
    from puter_client.contract.spec import Spec

    aws.start()
    tags = [f"demo-{number}" for number in range(count)]
    spec = Keys(settings, None).into(Spec(ssh_from=SshSources(settings.environ)(())))
    asked = [MachineRequest(tag, spec) for tag in tags]
    async with connected(settings, tell=live.show) as client:
        await aws.ready()
        live.clear()
        for title, listed in (
            (f"$ puter submit --tag 'demo-{{i}}' --count {count} --wait running", MOST_LISTED),
            ("And the same once more; every tag is there already:", 0),
        ):
            out()
            out(title)
            began = time.monotonic()
            going = follow.Going(settings, WaitFor.RUNNING)
            await follow.request(client, settings, asked, going, origin=Origin.SUBMIT)
            views = await follow.follow(client, going, timeout_s=TIMEOUT_S, tags=tags)
            _tell(views, time.monotonic() - began, listed)
            if any(follow.failed(view, WaitFor.RUNNING) for view in views):
                raise DemoFailed("not every machine came")
        _tell_ways(views[0], settings.paths)


def _tell(views: Sequence[View], took_s: float, listed: int) -> None:
    from puter_client.cli.follow import outcomes
    from puter_client.cli.table import counted, line_of, table
    from puter_client.cli.terminal import columns
    from puter_client.contract.outcome import Outcome

    if listed:
        for line in table([line_of(view, time.time()) for view in views[:listed]], columns()):
            out(line)
        if len(views) > listed:
            out(f"+{len(views) - listed:,} more")
    created = sum(view.outcome is Outcome.CREATED for view in views)
    told = outcomes(views) + ("" if created else ", 0 created")
    out(f"{told}; {counted(views)}, after {took_s:.1f} s")


def _tell_ways(view: View, paths: Paths) -> None:
    from puter_client.ssh_commands import rsync_command, ssh_command

    if view.record is None:
        return
    out()
    out("Onto one of them (here nobody would answer):")
    for command in (ssh_command(view.record), rsync_command(view.record)):
        out(f"  {plain(command or '')}")
    out(f"The logs are in {paths.logs}:")
    for log in sorted(paths.logs.glob("*.jsonl")):
        out(f"  {log.name}  {log.read_bytes().count(10):,} lines")


def _tell_log(paths: Paths) -> None:
    """The end of the worker's log, for whoever has to find out why the demo failed."""
    live.clear()
    for name in ("worker.out", "worker.jsonl"):
        with suppress(OSError), (paths.logs / name).open(encoding="utf-8", errors="replace") as log:
            for line in deque(log, maxlen=_TAIL_LINES):
                say(f"{name}: {plain(line)}")


def _quiet(_text: str) -> None:
    pass


class SimulatedAws:
    """A moto server of this demo's own, on a free port of loopback."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "moto.log"
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it; `ready` waits until it answers."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - no shell reads it
                [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_without_settings(os.environ),
                start_new_session=True,  # a Ctrl-C is the demo's to deal with
            )

    async def ready(self) -> None:
        """Return when it answers.

        Raises:
            DemoFailed: it does not.
        """
        until = time.monotonic() + _STARTS_WITHIN_S
        while not _answers(self._port):
            if self._process is None or self._process.poll() is not None or time.monotonic() > until:
                words = self._log.read_text(errors="replace").strip().splitlines()
                raise DemoFailed(
                    f"the simulated AWS does not start: {plain(words[-1]) if words else 'it said nothing'}"
                )
            await asyncio.sleep(_POLL_S)

    def stop(self) -> None:
        """End it."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_ENDS_WITHIN_S)
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
