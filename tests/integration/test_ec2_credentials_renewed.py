"""Credentials over time: many who wait for them, programs that hang, and what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from puter_worker.ec2.answers import Vpcs
from puter_worker.ec2.session import Sessions
from puter_worker.errors import CredentialsError, Handling
from puter_worker.timings import Timings
from tests.integration.credential_program import GOOD, caller, configure, error_of, gone, runs, until
from tests.integration.moto_server import REGION
from tests.integration.scripted_endpoint import CLOSED, Endpoint, Reply, refusal

SOON = Timings(credentials_again_s=0.0, credentials_s=0.5, process_ends_s=0.1)


@pytest.fixture
async def hurried(moto: str) -> AsyncIterator[Sessions]:
    """Sessions that give a provider half a second."""
    opened = Sessions(SOON, version="0")
    yield opened
    await opened.aclose()


async def test_one_resolution_serves_all_that_wait(moto: str, program: Callable[[str], str], tmp_path: Path) -> None:
    sessions = Sessions(Timings(credentials_told_s=600.0), version="0")
    program(f"sleep 0.1; echo '{GOOD}}}'")

    await asyncio.gather(*(caller(sessions).call("DescribeVpcs", Vpcs) for _ in range(20)))
    await sessions.aclose()

    assert len(runs(tmp_path)) == 1


async def test_a_failure_is_told_to_all_and_not_repeated_for_each(
    moto: str, program: Callable[[str], str], tmp_path: Path
) -> None:
    sessions = Sessions(Timings(credentials_told_s=600.0, credentials_again_s=600.0), version="0")
    program("echo hello")

    for _ in range(20):
        await error_of(sessions)
    await asyncio.gather(*(error_of(sessions) for _ in range(20)))
    await sessions.aclose()

    assert len(runs(tmp_path)) == 1


STILL = "has not answered, and is given up after 60 s"
HANGS = "sleep 1000 & echo $! >> {folder}/runs; trap '' TERM; wait; wait"


async def test_a_program_that_hangs_is_ended_with_all_its_children(
    hurried: Sessions, program: Callable[[str], str], tmp_path: Path
) -> None:
    program(HANGS.format(folder=tmp_path))

    error = await error_of(hurried)

    assert "its credential_process did not answer within" in error.message
    assert (error.handling, error.doubtful) == (Handling.CREDENTIALS, False)
    assert len(runs(tmp_path)) == 2
    await gone(runs(tmp_path))


async def test_who_waits_is_told_what_for_while_a_program_hangs(
    moto: str, program: Callable[[str], str], tmp_path: Path
) -> None:
    patient = Sessions(Timings(credentials_told_s=0.1), version="0")
    program(HANGS.format(folder=tmp_path))

    errors = await asyncio.gather(*(error_of(patient) for _ in range(20)))
    await until(lambda: len(runs(tmp_path)) == 2)

    assert {error.message for error in errors} == {
        f"the AWS credentials of AWS profile 'lab' are not there yet: its credential_process {STILL}"
    }
    await patient.aclose()
    await gone(runs(tmp_path))


async def test_a_worker_that_ends_waits_for_no_program(
    moto: str, program: Callable[[str], str], tmp_path: Path
) -> None:
    ending = Sessions(Timings(credentials_drain_s=0.0, credentials_told_s=600.0, process_ends_s=0.1), version="0")
    program(HANGS.format(folder=tmp_path))
    waiting = asyncio.create_task(error_of(ending))
    await until(lambda: len(runs(tmp_path)) == 2)

    ending.hurry()

    assert (await waiting).handling is Handling.CREDENTIALS
    await gone(runs(tmp_path))
    await ending.aclose()


@pytest.mark.parametrize("broken", ["echo hello", "exit 1"])
async def test_what_is_right_again_is_used_without_a_restart(
    sessions: Sessions, program: Callable[[str], str], broken: str
) -> None:
    program(broken)
    await error_of(sessions)

    program(f"echo '{GOOD}}}'")

    assert (await caller(sessions).call("DescribeVpcs", Vpcs)).vpcs


@pytest.mark.parametrize("broken", [b"hello\n", b"[profile lab]\n[profile lab]\n", b"[profile lab]\nx = \xff\n"])
async def test_a_config_that_parses_again_is_used_without_a_restart(sessions: Sessions, broken: bytes) -> None:
    configure(broken)
    await error_of(sessions)

    configure("[profile lab]\naws_access_key_id = a\naws_secret_access_key = b\n")

    assert (await caller(sessions).call("DescribeVpcs", Vpcs)).vpcs


async def test_credentials_that_end_while_the_worker_runs_are_renewed_and_a_failure_is_waited_for(
    sessions: Sessions, program: Callable[[str], str], tmp_path: Path
) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
    program(f'echo \'{GOOD}, "Expiration": "{soon}"}}\'')
    await caller(sessions).call("DescribeVpcs", Vpcs)
    program("echo 'sign in again' >&2; exit 1")

    error = await error_of(sessions)

    assert (type(error), error.doubtful) == (CredentialsError, False)
    assert "sign in again" in error.message


async def test_credentials_that_are_good_for_minutes_are_used_while_their_renewal_fails(
    sessions: Sessions, program: Callable[[str], str], tmp_path: Path
) -> None:
    later = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    program(f'echo \'{GOOD}, "Expiration": "{later}"}}\'')
    await caller(sessions).call("DescribeVpcs", Vpcs)
    program("exit 1")

    for _ in range(3):
        await caller(sessions).call("DescribeVpcs", Vpcs)


async def test_credentials_that_ec2_refuses_are_read_again_and_no_oftener_than_that_can_help(
    told: Endpoint, program: Callable[[str], str], tmp_path: Path
) -> None:
    sessions = Sessions(Timings(credentials_told_s=600.0, credentials_again_s=600.0), version="0")
    program(f"echo '{GOOD}}}'")
    told.replies = [refusal("AuthFailure", 401, "AWS was not able to validate the provided access credentials")] * 9

    errors = [await error_of(sessions) for _ in range(9)]
    await sessions.aclose()

    assert {error.handling for error in errors} == {Handling.CREDENTIALS}
    assert all(f"enable region {REGION}" in error.message for error in errors)
    assert len(runs(tmp_path)) == 1


@pytest.mark.parametrize("reply", [CLOSED, Reply(200, "no XML"), Reply(502, "<html>Bad Gateway</html>")])
async def test_an_account_that_sts_does_not_tell_puts_nothing_in_doubt(
    told: Endpoint, told_sessions: Sessions, reply: Reply
) -> None:
    told.replies = [reply]

    with pytest.raises(CredentialsError, match="the account of the default AWS profile is not known: ") as caught:
        await told_sessions.account_id(None, REGION)

    assert not caught.value.doubtful
