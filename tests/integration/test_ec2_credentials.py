"""Credentials that fail, in every way that providers have: they are waited for, and never a defect or a doubt."""

from __future__ import annotations

import getpass
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from puter_worker.ec2.session import Sessions
from puter_worker.errors import AwsSettingsError, CredentialsError, Handling, reason_after
from tests.integration.credential_program import GOOD, KEY_ID, SECRET, configure, error_of

ROLE = "[profile lab]\nrole_arn = arn:aws:iam::123456789012:role/lab\n"
SSO = (
    "[profile lab]\nsso_session = s\nsso_account_id = 123456789012\nsso_role_name = r\n"
    "[sso-session s]\nsso_start_url = https://sso.test\nsso_region = us-east-1\n"
)


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


async def test_what_is_wrong_with_the_settings_of_connections_is_told_before_a_call(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere/ca.pem")

    error = await error_of(sessions, None)

    assert (type(error), error.doubtful) == (AwsSettingsError, False)
    assert "AWS_CA_BUNDLE '/nowhere/ca.pem' cannot be used: No such file" in error.message
