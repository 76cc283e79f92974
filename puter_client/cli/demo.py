"""`puter demo`: workloads from a file to their results, on a simulated AWS, in a temporary folder."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, ClassVar

import click

from puter_client.cli.group import COMMANDS
from puter_client.cli.terminal import live, out, plain, say
from puter_client.contract.errors import PuterError
from puter_client.packages import how_to_install
from puter_client.paths import Paths
from puter_client.timings import DEFAULT_TIMINGS, ClientTimings

if TYPE_CHECKING:
    from puter_client.config import ClientSettings

NEEDED = ("moto", "flask", "arq", "aioboto3")
COUNT, MOST = 6, 100
SERVER = ("-m", "puter_worker.simulated")
FILE = "batch.yaml"
FAILS, RETRIED = "warmest-oslo", "render"  # tags of the batch file
_TAIL_LINES = 15
_WHAT = """\
Real: the commands, the queue, the worker, its calls, and the workloads. Puter's own agent runs each of them, as a
process of this computer, and says on the machine's console how it has ended.
Simulated: EC2 (by moto, on loopback). A machine is a folder. It ends as soon as its workload has, not 10 s later. EC2
takes one Spot machine back. No deadline is set, nothing is installed, and ssh reaches nobody."""


class DemoFailed(PuterError):
    """The demo could not be completed."""

    exit_code: ClassVar[int] = 1


@click.command(short_help=COMMANDS["demo"][2])
@click.option(
    "--count",
    type=click.IntRange(1, MOST),
    metavar="N",
    default=COUNT,
    show_default=True,
    help="Workloads of the sweep.",
)
def demo(count: int) -> int:
    """Show workloads from a file to their results, on a simulated AWS.

    The commands, the queue, the worker and the workloads are real, each of
    them a process of this computer; only EC2 is simulated (by moto, on
    loopback). The demo needs no credentials, calls no AWS, works in a
    temporary folder and removes it.

    \b
    Example:
      puter demo --count 30
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise DemoFailed(f"{missing[0]} is not installed: {how_to_install('demo')}")
    if shutil.which("bash") is None:
        raise DemoFailed("there is no bash on the PATH: the demo's workloads are run by it")
    with _interruptible():
        home = Path(tempfile.mkdtemp(prefix="puter-demo-"))
        try:
            _check_runs_programs(home)
            return asyncio.run(_demo(home, count, DEFAULT_TIMINGS))
        finally:
            live.clear()
            shutil.rmtree(home, ignore_errors=True)


def _check_runs_programs(home: Path) -> None:
    if os.statvfs(home).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise DemoFailed(f"{plain(str(home.parent))} is mounted noexec, and the demo runs programs in it: set TMPDIR")


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
    environ |= {"PUTER_HOME": str(home), "PUTER_NAMESPACE": "demo"}
    settings = client_settings(environ, namespace=None, config=Config(), paths=Paths.from_environ(environ))
    try:
        _tell(_WHAT)
        async with asyncio.timeout(timings.demo_wait_s):
            await _show(settings, aws, Shell(home, environ), count, timings)
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
            _tell_log(settings.paths)
        if isinstance(error, TimeoutError):
            raise DemoFailed(f"the demo did not come to its end within {timings.demo_wait_s:.0f} s") from None
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
    _tell(f"\nThe demo took {time.monotonic() - began:.0f} s, and everything it created is removed.")
    out("On your own AWS account, start with: puter submit FILE --wait finished")
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
        "PUTER_QUIET_SWEEP_S": "1",  # moto may be asked often
        "PUTER_DRAIN_S": "1",  # no work has to be finished
    }


async def _show(settings: ClientSettings, aws: SimulatedAws, shell: Shell, count: int, timings: ClientTimings) -> None:
    from puter_client.cli.session import connected

    aws.start()
    data = shell.folder / "data"
    data.mkdir()
    (data / "lima.csv").write_text("2026-01-14,27\n2026-02-02,29\n2026-02-20,28\n")
    batch = batch_text(data, count)
    (shell.folder / FILE).write_text(batch)
    _tell(f"\n$ cat {FILE}\n{batch}".rstrip())
    async with connected(settings, tell=live.show, timings=timings):
        await aws.ready()
        live.clear()
        await shell.puter("submit", FILE, "--wait", "finished", ends_with=1)
        _tell("\nWhat became of the one that failed, and of the one whose machine EC2 took back:")
        await shell.puter("why", FAILS)
        await shell.puter("logs", FAILS)
        await shell.puter("why", RETRIED)
        _tell("\nThe same file again launches nothing:")
        await shell.puter("submit", FILE, ends_with=1)
        _tell("\nWith what was missing, only what failed is run again:")
        (data / "oslo.csv").write_text("2026-06-30,24\n2026-07-17,31\n2026-08-02,26\n")
        await shell.puter("submit", FILE, "--retry-failed", "--wait", "finished")
        await shell.puter("logs", "--batch", "last")


def batch_text(data: Path, count: int) -> str:
    """The batch file; `data`: the folder of its workloads' data, `count`: how many there are of the sweep."""
    text = files(__package__).joinpath("demo.yaml").read_text(encoding="utf-8")
    sizes = ", ".join(str(1_000 * number) for number in range(1, count + 1))
    return text.replace("@sizes@", f"[{sizes}]").replace("@data@", json.dumps(str(data)))


def _tell(text: str) -> None:
    for line in text.splitlines():
        out(line)


class Shell:
    """Runs commands as a user would, in the demo's folder; its output is theirs."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self._environ = environ

    async def puter(self, *words: str, ends_with: int = 0) -> None:
        """Show a command of Puter, and run it.

        Raises:
            DemoFailed: its exit code is not `ends_with`.
        """
        from puter_client.cli.follow import end_if_interrupted

        end_if_interrupted()
        _tell(f"\n$ puter {shlex.join(words)}")
        sys.stdout.flush()
        running = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "puter_client.cli", *words),
            stdin=asyncio.subprocess.DEVNULL,
            env=self._environ,
            cwd=self.folder,
            start_new_session=True,  # the demo handles Ctrl-C
        )
        try:
            code = await running.wait()
        except BaseException:
            with suppress(ProcessLookupError):
                running.kill()
            await running.wait()
            raise
        if code != ends_with:
            raise DemoFailed(f"`puter {shlex.join(words)}` ended with exit code {code}, not {ends_with}")


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
    """A simulated EC2 for this demo, on a free port of loopback; it runs the workloads of its machines."""

    def __init__(self, folder: Path, timings: ClientTimings) -> None:
        self._timings = timings
        self._machines = folder / "machines"
        self._log = folder / "ec2.log"
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start the server; `ready` waits until it answers."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - no shell reads it
                [sys.executable, "-W", "ignore", *SERVER, str(self._port), str(self._machines)],
                stdin=subprocess.PIPE,  # it ends with this, and so when this process is killed
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
        """End the server, and its machines with it."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            self._process.wait(self._timings.demo_aws_ends_within_s)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
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
