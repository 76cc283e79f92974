"""A user's own world: a home folder, a simulated AWS, and commands as processes. Its engine ends with the test run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import pexpect
import pytest

from puter_client.paths import Paths
from tests.integration.engine_world import is_running, kill, wait_for
from tests.integration.moto_server import moto_served, reset_moto

ROOT = Path(__file__).parents[2]
PUTER = [sys.executable, "-m", "puter_client.cli"]
PATIENCE_S = 120.0


class Ran:
    """A command that has ended.

    Attributes:
        code: its exit code.
        out: its standard output.
        err: its standard error.
    """

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr
        assert "Traceback" not in self.err, self.err

    def objects(self) -> list[dict[str, Any]]:
        """What --json wrote."""
        return [json.loads(line) for line in self.out.splitlines()]


class CliWorld:
    """A folder with all that commands of one user see of the world.

    Attributes:
        home: its PUTER_HOME.
        environ: the environment of its commands.
    """

    def __init__(self, folder: Path, aws: str) -> None:
        self.home = folder / "home"
        kept = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", "TERM": "xterm"}
        self.environ = {
            **kept,
            "PYTHONPATH": str(ROOT),
            "PUTER_HOME": str(self.home),
            "PUTER_NAMESPACE": "betty",
            "PUTER_PACE": "off",
            "PUTER_MAX_GROUP": "1",  # of a group's call moto grants one machine
            "PUTER_DRAIN_S": "2",
            "LOGNAME": "betty",
            "AWS_ENDPOINT_URL": aws,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    @property
    def paths(self) -> Paths:
        return Paths.from_environ(self.environ)

    def puter(self, *words: str, stdin: str = "", **changed: str) -> Ran:
        """Run a command to its end; variables are added to its environment."""
        return Ran(
            subprocess.run(
                [*PUTER, *words],
                env={**self.environ, **changed},
                cwd=self.home.parent,
                input=stdin,
                capture_output=True,
                text=True,
                timeout=PATIENCE_S * 2,
                check=False,
            )
        )

    def up(self, tag: str, *words: str) -> dict[str, Any]:
        """A machine, as `up --json` tells of it."""
        (told,) = self.puter("up", tag, "--json", *words).objects()
        return told

    def ec2(self, region: str = "us-east-1") -> Any:
        """A plain client of the simulated AWS."""
        aws = boto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing", region_name=region)
        return aws.client("ec2", endpoint_url=self.environ["AWS_ENDPOINT_URL"])

    def on_terminal(self, *words: str, columns: int = 80, **changed: str) -> pexpect.spawn[str]:
        """A command on a terminal of its own."""
        return pexpect.spawn(
            PUTER[0],
            [*PUTER[1:], *words],
            env={**self.environ, **changed},
            cwd=str(self.home.parent),
            dimensions=(24, columns),
            encoding="utf-8",
            timeout=PATIENCE_S,
        )

    def program(self, name: str, script: str) -> str:
        """A program of a name that stands before all others on the PATH; the PATH with it."""
        folder = self.home.parent / "bin"
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o700)
        return f"{folder}:{self.environ['PATH']}"

    def processes(self) -> list[int]:
        """Process ids of its engine."""
        found = []
        for name in ("server.pid", "worker.ready"):
            with suppress(OSError, ValueError):
                found.append(int((self.paths.engine / name).read_text()))
        return found

    def close(self) -> None:
        """End its engine."""
        pids = self.processes()
        self.puter("local", "stop", "--force")
        for pid in pids:
            kill(pid, signal.SIGKILL)
        wait_for(lambda: not any(is_running(pid) for pid in pids), "the engine's processes to be gone")


def ended(terminal: pexpect.spawn[str]) -> tuple[int | None, str]:
    """Wait until a command on a terminal has ended; its exit code and what it wrote last."""
    last = terminal.read()
    terminal.close()
    return terminal.exitstatus, last


def arguments(written: Sequence[str]) -> str:
    """A script that writes its arguments, one a line, into a file named by $SEEN, and ends with 7."""
    return "\n".join([*written, 'for word in "$@"; do printf "%s\\n" "$word"; done > "$SEEN"', "exit 7"])


@pytest.fixture(scope="session")
def betty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CliWorld]:
    """One user with an engine that all tests share, each with its own tags, and an AWS that nobody empties."""
    with moto_served() as aws:
        world = CliWorld(tmp_path_factory.mktemp("betty"), aws)
        try:
            yield world
        finally:
            world.close()


@pytest.fixture
def fresh(tmp_path: Path, moto_url: str) -> Iterator[CliWorld]:
    """A user who has never run a command, and whose AWS is empty."""
    reset_moto(moto_url)
    world = CliWorld(tmp_path, moto_url)
    try:
        yield world
    finally:
        world.close()
