"""Credentials that do not come, as people meet them: with a real worker, and programs that it runs."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from puter_client.client import PuterClient
from puter_client.timings import ClientTimings
from tests.acceptance.cli_world import CliWorld
from tests.integration.engine_world import is_running, wait_for

GOOD = """echo '{"Version": 1, "AccessKeyId": "testing", "SecretAccessKey": "testing"}'"""


class Program:
    """The credential_process of a world's default profile.

    Attributes:
        path: its file.
    """

    def __init__(self, world: CliWorld) -> None:
        folder = world.home.parent
        self.path, self._pids = folder / "get-keys", folder / "pids"
        config = folder / "aws-config"
        config.write_text(f"[default]\ncredential_process = {self.path}\n")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            del world.environ[name]
        world.environ["AWS_CONFIG_FILE"] = str(config)

    def does(self, script: str) -> None:
        """What it does from now on; `$!` of what it leaves behind is noted as well."""
        new = self.path.with_suffix(".new")
        new.write_text(f"#!/bin/sh\necho $$ >> {self._pids}\n{script.format(note=f'echo $! >> {self._pids}')}\n")
        new.chmod(0o700)
        new.replace(self.path)

    def hangs(self) -> None:
        self.does("trap '' TERM; sleep 1000 & {note}; wait; wait")

    def pids(self) -> list[int]:
        """All that it has ever started."""
        return [int(line) for line in self._pids.read_text().split()] if self._pids.exists() else []

    def running(self) -> list[int]:
        return [pid for pid in self.pids() if is_running(pid)]

    def end(self) -> None:
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def program(fresh: CliWorld) -> Iterator[Program]:
    program = Program(fresh)
    yield program
    program.end()


def reasons(world: CliWorld) -> list[str]:
    return [told["reason"] or "" for told in world.puter("status", "--json").objects()]


def test_a_program_that_hangs_is_run_once_for_all_who_wait_and_its_credentials_are_used_when_they_come(
    fresh: CliWorld, program: Program
) -> None:
    program.hangs()
    fresh.puter("submit", "--tag", "x-{i}", "--count", "20", "--ssh-from", "none")

    wait_for(lambda: sum("its credential_process has not answered" in why for why in reasons(fresh)) == 20, "reasons")
    wait_for(lambda: len(program.running()) == 2, "one run, and what it has started")

    program.does(GOOD.replace("{", "{{").replace("}", "}}"))
    program.end()

    assert fresh.puter("wait", "--timeout", "60s").code == 0
    assert len(fresh.puter("status", "--json").objects()) == 20
    log = (fresh.paths.logs / "worker.jsonl").read_text()
    assert "credentials.resolved" in log
    assert "Traceback" not in log
    assert "stage.failed" not in log


def test_a_program_that_hangs_does_not_outlive_its_worker(fresh: CliWorld, program: Program) -> None:
    program.hangs()
    fresh.puter("submit", "--tag", "x", "--count", "1", "--ssh-from", "none")
    wait_for(lambda: len(program.running()) == 2, "the program to run")

    assert fresh.puter("local", "stop").code == 0

    wait_for(lambda: program.running() == [], "the program to end")


def test_no_worker_asks_for_a_code_of_mfa_on_a_terminal(fresh: CliWorld, program: Program) -> None:
    config = Path(fresh.environ["AWS_CONFIG_FILE"])
    config.write_text(
        "[profile role]\nrole_arn = arn:aws:iam::123456789012:role/x\nsource_profile = keys\n"
        "mfa_serial = arn:aws:iam::123456789012:mfa/betty\n"
        "[profile keys]\naws_access_key_id = a\naws_secret_access_key = b\n"
    )
    fresh.puter("submit", "--tag", "x", "--count", "1", "--ssh-from", "none", "--profile", "role")

    wait_for(lambda: any("a worker cannot ask for one" in why for why in reasons(fresh)), "the reason")
    assert "Enter MFA" not in (fresh.paths.logs / "worker.out").read_text()


KEYS = "[profile lab]\naws_access_key_id = a\naws_secret_access_key = b\n"
GONE = "add AWS profile 'lab' to the AWS config of a worker's host"


def test_a_machine_whose_profile_is_gone_says_so_until_the_profile_is_back(fresh: CliWorld, program: Program) -> None:
    program.does("exit 1")
    config = Path(fresh.environ["AWS_CONFIG_FILE"])
    config.write_text(KEYS)
    fresh.up("lost", "--profile", "lab", "--ssh-from", "none")

    config.write_text("[profile other]\n")
    wait_for(lambda: GONE in stage_reason(fresh, "lost"), "the reason")

    config.write_text(KEYS)
    wait_for(lambda: GONE not in stage_reason(fresh, "lost"), "a worker that looks after it again")


def stage_reason(world: CliWorld, tag: str) -> str:
    """Why a machine's record is old, for a client that takes any for old."""

    async def read() -> str:
        hasty = ClientTimings(stale_after_s=0.0)
        async with PuterClient.connect(f"unix://{world.paths.socket}", namespace="betty", timings=hasty) as client:
            (view,) = await client.views([tag])
        return view.stage_reason or ""

    return asyncio.run(read())
