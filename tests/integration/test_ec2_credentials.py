"""Credentials that fail, in every way that providers have: they are waited for, and never a defect or a doubt."""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from puter_worker.ec2.answers import Vpcs
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.session import Sessions
from puter_worker.errors import AwsSettingsError, CredentialsError, Handling, StageError, reason_after
from puter_worker.timings import Timings
from tests.integration.engine_world import is_running
from tests.integration.moto_server import REGION
from tests.integration.scripted_endpoint import CLOSED, Endpoint, Reply, refusal

KEY_ID, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
GOOD = f'{{"Version": 1, "AccessKeyId": "{KEY_ID}", "SecretAccessKey": "{SECRET}"'
ROLE = "[profile lab]\nrole_arn = arn:aws:iam::123456789012:role/lab\n"
SSO = (
    "[profile lab]\nsso_session = s\nsso_account_id = 123456789012\nsso_role_name = r\n"
    "[sso-session s]\nsso_start_url = https://sso.test\nsso_region = us-east-1\n"
)
SOON = Timings(credentials_again_s=0.0, credentials_s=0.5, process_ends_s=0.1)


def configure(text: str | bytes) -> None:
    Path(os.environ["AWS_CONFIG_FILE"]).write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], str]:
    """Writes a shell script as credential_process of profile lab; each of its runs adds a line to `runs`."""

    def write(script: str) -> str:
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/runs\n{script}\n")
        path.chmod(0o700)
        configure(f"[profile lab]\ncredential_process = {path}\n")
        return str(path)

    return write


def runs(folder: Path) -> list[int]:
    """Process ids of the program's runs so far."""
    path = folder / "runs"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def caller(sessions: Sessions, profile: str | None = "lab") -> Caller:
    return Caller(sessions, profile=profile, region=REGION)


async def error_of(sessions: Sessions, profile: str | None = "lab") -> StageError:
    with pytest.raises(StageError) as caught:
        await caller(sessions, profile).call("DescribeVpcs", Vpcs)
    return caught.value


@pytest.fixture
async def hurried(moto: str) -> AsyncIterator[Sessions]:
    """Sessions that give a provider half a second."""
    opened = Sessions(SOON, version="0")
    yield opened
    await opened.aclose()


# How a credential_process fails, and what is said of it.
PROGRAMS = {
    "echo hello": "JSON is malformed",
    "true": "truncated",
    "echo '[1, 2]'": "Expected `object`, got `array`",
    f"echo '{GOOD}'": "truncated",
    f"""echo '{GOOD.replace("1", "2", 1)}}}'""": "version of the format that is not 1",
    """echo '{"Version": 1, "AccessKeyId": "a"}'""": "missing required field `SecretAccessKey`",
    f"""echo '{GOOD}, "Expiration": "tomorrow"}}'""": "Expiration",
    f"""echo '{GOOD}, "Expiration": "2999-01-01T00:00:00"}}'""": "with a time zone",
    f"""echo '{GOOD}, "Expiration": "2001-01-01T00:00:00Z"}}'""": "expired already",
    r"printf '\377\376'": "JSON",
    "echo 'token expired: run okta-login' >&2; exit 3": "exit code 3: token expired: run okta-login",
    "exit 4": "exit code 4: it wrote no reason",
    "kill -9 $$": "signal 9",
    'read answer; echo "got <$answer>" >&2; exit 5': "got <>",
    "read answer < /dev/tty; exit 6": "/dev/tty",
    "head -c 100000 /dev/zero": "65,536 bytes",
}


@pytest.mark.parametrize(("script", "words"), PROGRAMS.items(), ids=[str(n) for n in range(len(PROGRAMS))])
async def test_a_credential_process_that_fails_is_waited_for_with_its_own_words(
    sessions: Sessions, program: Callable[[str], str], script: str, words: str
) -> None:
    program(script)

    error = await error_of(sessions)

    assert (error.handling, error.doubtful) == (Handling.CREDENTIALS, False)
    assert words in error.message
    assert "'lab'" in error.message


CONFIGS = {
    "a program that is not there": (
        "[profile lab]\ncredential_process = /nowhere/x -y\n",
        "'/nowhere/x': No such file",
    ),
    "a program that may not run": ("[profile lab]\ncredential_process = /etc/passwd\n", "Permission denied"),
    "unbalanced quotes": ('[profile lab]\ncredential_process = x "y\n', "No closing quotation"),
    "an empty command": ("[profile lab]\ncredential_process =\n", "is empty"),
    "a command on more lines": ("[profile lab]\ncredential_process =\n  a = b\n", "is not one line"),
    "a role of a process": (
        f"{ROLE}source_profile = source\n[profile source]\ncredential_process = echo hello\n",
        "credential_process of AWS profile 'source'",
    ),
    "a role without its source": (f"{ROLE}source_profile = gone\n", 'source_profile "gone"'),
    "a role of another's role": (
        f"{ROLE}source_profile = a\n[profile a]\nrole_arn = x\nsource_profile = lab\n",
        "loop",
    ),
    "a role of a source that is none": (f"{ROLE}credential_source = Nowhere\n", "Nowhere"),
    "a role of credentials that are missing": (
        f"{ROLE}credential_source = Ec2InstanceMetadata\n",
        "No credentials found",
    ),
    "a token file that is not there": (f"{ROLE}web_identity_token_file = /nowhere/token\n", "'/nowhere/token'"),
    "half of the keys": ("[profile lab]\naws_access_key_id = a\n", "missing: aws_secret_access_key"),
    "none": ("[profile lab]\nregion = us-east-1\n", "no AWS credentials for AWS profile 'lab'"),
    "SSO without a token": (SSO, "`aws sso login --profile lab`"),
    "SSO without its session": (SSO.replace("[sso-session s]", "[sso-session t]"), '"s" sso_session'),
    "SSO with a session on more lines": (SSO.replace("= s\n", "=\n  a = b\n", 1), "cannot be used"),
}


@pytest.mark.parametrize(("config", "words"), CONFIGS.values(), ids=CONFIGS)
async def test_whatever_a_provider_raises_is_waited_for(sessions: Sessions, config: str, words: str) -> None:
    configure(config)

    error = await error_of(sessions)

    assert (error.handling, error.doubtful) == (Handling.CREDENTIALS, False)
    assert words in error.message
    assert "Puter" in error.message or "worker" in error.message  # and what to do, or where


@pytest.mark.parametrize(
    "token", [b"{not json", b"[]", b'{"accessToken": "x", "expiresAt": "what"}', b"\xff\xfe"], ids=range(4)
)
async def test_a_corrupted_token_of_sso_is_remedied_by_signing_in(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: bytes
) -> None:
    from botocore.credentials import SSOProvider
    from botocore.tokens import SSOTokenProvider

    for provider in (SSOProvider, SSOTokenProvider):  # the folder is known from when botocore was imported
        monkeypatch.setattr(provider, "_SSO_TOKEN_CACHE_DIR", str(tmp_path))
    (tmp_path / "a0f1490a20d0211c997b44bc357e1972deab8ae3.json").write_bytes(token)  # the SHA-1 of "s"
    configure(SSO)

    error = await error_of(sessions)

    assert (type(error), error.handling) == (CredentialsError, Handling.CREDENTIALS)
    assert "`aws sso login --profile lab`" in error.message


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": ""}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "hello"}, "container"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere", "AWS_ROLE_ARN": "x"}, "'/nowhere'"),
        ({"AWS_CREDENTIAL_EXPIRATION": "tomorrow"}, "env"),
        ({"AWS_METADATA_SERVICE_TIMEOUT": "often"}, "'often'"),
        ({"AWS_PROFILE": "gone"}, "AWS_PROFILE is 'gone'"),
    ],
    ids=["half", "container", "token-file", "expiration", "metadata", "profile"],
)
async def test_the_default_credentials_fail_in_the_same_way(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    error = await error_of(sessions, None)

    assert (error.handling, error.doubtful) == (Handling.CREDENTIALS, False)
    assert words in error.message


async def test_a_code_of_mfa_is_asked_of_nobody(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(getpass, "getpass", asked.append)
    source = "[profile source]\naws_access_key_id = a\naws_secret_access_key = b\n"
    configure(f"{ROLE}source_profile = source\nmfa_serial = arn:aws:iam::123456789012:mfa/betty\n{source}")

    error = await error_of(sessions)

    assert (asked, error.handling) == ([], Handling.CREDENTIALS)
    assert "`credential_process = aws configure export-credentials --profile lab`" in error.message


async def test_no_key_is_shown_or_logged(
    sessions: Sessions, program: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with capture_logs() as logs:
        for script in (
            f'echo \'{GOOD}, "Expiration": "{SECRET}"}}\'',
            f"echo {KEY_ID} {SECRET}",
            f"echo 'refused: {KEY_ID} {SECRET}' >&2; exit 1",
            f'echo \'{{"Version": "{SECRET}", "AccessKeyId": ["{KEY_ID}"]}}\'',
        ):
            program(script)
            error = await error_of(sessions)
            logs.append({"event": reason_after(error)})

    assert not [secret for secret in (KEY_ID, SECRET) if secret in f"{logs}{caplog.text}"]


async def test_a_program_knows_nothing_of_redis(
    sessions: Sessions, program: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUTER_REDIS_URL", "redis://worker:hunter2@localhost")
    program('echo "<$PUTER_REDIS_URL>" >&2; exit 1')

    assert "<>" in (await error_of(sessions)).message


async def test_one_resolution_serves_all_that_wait(moto: str, program: Callable[[str], str], tmp_path: Path) -> None:
    sessions = Sessions(Timings(credentials_told_s=600.0), version="0")
    program(f"sleep 0.1; echo '{GOOD}}}'")

    await asyncio.gather(*(caller(sessions).call("DescribeVpcs", Vpcs) for _ in range(20)))
    await sessions.aclose()

    assert len(runs(tmp_path)) == 1


async def test_a_failure_is_told_to_all_and_not_repeated_for_each(
    moto: str, program: Callable[[str], str], tmp_path: Path
) -> None:
    sessions = Sessions(Timings(), version="0")
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


@pytest.mark.parametrize("broken", ["echo hello", "exit 1", "sleep 1000"])
async def test_what_is_right_again_is_used_without_a_restart(
    hurried: Sessions, program: Callable[[str], str], broken: str
) -> None:
    program(broken)
    await error_of(hurried)

    program(f"echo '{GOOD}}}'")

    assert (await caller(hurried).call("DescribeVpcs", Vpcs)).vpcs


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
    sessions = Sessions(Timings(), version="0")
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


async def test_what_is_wrong_with_the_settings_of_connections_is_told_before_a_call(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere/ca.pem")

    error = await error_of(sessions, None)

    assert (type(error), error.doubtful) == (AwsSettingsError, False)
    assert "AWS_CA_BUNDLE '/nowhere/ca.pem' cannot be used: No such file" in error.message


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def gone(pids: list[int]) -> None:
    try:
        await until(lambda: not any(is_running(pid) for pid in pids))
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
