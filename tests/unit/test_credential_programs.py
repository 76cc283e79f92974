"""Which profiles get their credentials from a program of the host: themselves, or where they take theirs from."""

from __future__ import annotations

from pathlib import Path

import pytest

from puter_worker.ec2.aws_settings import with_program
from puter_worker.ec2.session import Sessions
from puter_worker.timings import Timings

CONFIG = """
[default]
credential_process = get-keys
[profile plain]
aws_access_key_id = a
aws_secret_access_key = b
[profile role]
role_arn = arn:aws:iam::123456789012:role/r
source_profile = middle
[profile middle]
role_arn = arn:aws:iam::123456789012:role/m
source_profile = program
[profile program]
region = eu-central-1
[profile loop]
source_profile = loop
[profile loop-a]
source_profile = loop-b
[profile loop-b]
source_profile = loop-a
[profile astray]
source_profile = nobody
"""
CREDENTIALS = """
[program]
credential_process = get-keys
[only-there]
credential_process = get-keys
"""


@pytest.fixture
def sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sessions:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, text in (("CONFIG", CONFIG), ("SHARED_CREDENTIALS", CREDENTIALS)):
        (tmp_path / name).write_text(text)
        monkeypatch.setenv(f"AWS_{name}_FILE", str(tmp_path / name))
    return Sessions(Timings(), version="0")


def test_profiles_with_a_program_are_known_in_both_files_and_through_chains(sessions: Sessions) -> None:
    found = {name for name in sessions.offered_profiles() if sessions.runs_a_program(name)}

    assert found == {"default", "role", "middle", "program", "only-there"}


@pytest.mark.parametrize(
    ("environ", "runs"),
    [
        ({}, True),
        ({"AWS_PROFILE": "plain"}, False),
        ({"AWS_PROFILE": "role"}, True),
        ({"AWS_DEFAULT_PROFILE": "plain", "AWS_PROFILE": "role"}, False),
        ({"AWS_ACCESS_KEY_ID": "a"}, False),
    ],
)
def test_the_default_credentials_come_from_a_program_if_those_that_are_used_do(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], runs: bool
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    assert sessions.runs_a_program(None) is runs


@pytest.mark.parametrize("settings", [{"source_profile": {"nested": "x"}}, {"source_profile": "x"}])
def test_settings_of_any_form_are_read(settings: dict[str, object]) -> None:
    assert with_program({"x": settings}) == frozenset()
