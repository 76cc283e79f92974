"""Which variables of an environment make another worker of the local engine necessary."""

from __future__ import annotations

from pathlib import Path

import pytest

from puter_client.local.environment import aws_settings, has_credential_process, other_settings

READ = [
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "BOTO_CONFIG", "BOTO_DISABLE_CRT",
    "PUTER_MAX_JOBS", "PUTER_MAX_GROUP", "PUTER_PACE", "PUTER_DRAIN_S", "PUTER_IDLE_EXIT_S", "PUTER_QUARANTINE_S",
    "PUTER_QUIET_SWEEP_S",
]  # fmt: skip
OF_PROGRAMS = ["PATH", "VAULT_ADDR", "OKTA_USER", "XDG_CONFIG_HOME", "PYTHONPATH", "GNUPGHOME", "TZ", "MY_TOKEN"]
OF_SHELLS = [
    "PWD", "OLDPWD", "SHLVL", "_", "TERM", "TERM_PROGRAM", "TERM_SESSION_ID", "COLORTERM", "COLUMNS", "LINES",
    "WINDOWID", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_SESSION_ID", "XDG_RUNTIME_DIR", "SSH_CLIENT",
    "SSH_CONNECTION", "SSH_TTY", "SSH_AUTH_SOCK", "GPG_TTY", "TMUX", "TMUX_PANE", "STY", "VSCODE_PID", "WT_SESSION",
    "INVOCATION_ID", "DBUS_SESSION_BUS_ADDRESS", "PS1", "PROMPT_COMMAND", "LS_COLORS", "EDITOR", "PAGER", "LANG",
    "LC_ALL", "VIRTUAL_ENV", "CONDA_PREFIX", "DIRENV_DIR", "PUTER_NAMESPACE", "PUTER_DEBUG", "HISTFILE", "NO_COLOR",
]  # fmt: skip


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, str]:
    """An environment whose AWS config names no program."""
    (tmp_path / ".aws").mkdir()
    return {"HOME": str(tmp_path), "PATH": "/usr/bin"}


@pytest.fixture
def with_program(plain: dict[str, str]) -> dict[str, str]:
    """An environment whose AWS config names a program."""
    (Path(plain["HOME"]) / ".aws" / "config").write_text("[default]\ncredential_process = get-keys\n")
    return plain


@pytest.mark.parametrize("name", READ)
def test_what_the_sdk_and_the_worker_read_counts(plain: dict[str, str], name: str) -> None:
    assert other_settings({**plain, name: "1"}) != other_settings(plain)


@pytest.mark.parametrize("name", OF_PROGRAMS)
def test_what_only_programs_read_counts_where_there_is_one(
    plain: dict[str, str], with_program: dict[str, str], name: str
) -> None:
    assert other_settings({**with_program, name: "1"}) != other_settings(with_program)


@pytest.mark.parametrize("name", OF_PROGRAMS)
def test_where_no_program_is_run_it_does_not_count(plain: dict[str, str], name: str) -> None:
    assert other_settings({**plain, name: "1"}) == other_settings(plain)


@pytest.mark.parametrize("name", OF_SHELLS)
def test_what_a_shell_or_session_sets_for_itself_never_counts(with_program: dict[str, str], name: str) -> None:
    assert other_settings({**with_program, name: "1"}) == other_settings(with_program)


def test_another_home_counts(plain: dict[str, str]) -> None:
    assert other_settings({**plain, "HOME": "/elsewhere"}) != other_settings(plain)


@pytest.mark.parametrize("name", [*READ, "VAULT_ADDR", "AWS_PROFILE"])
def test_an_empty_variable_is_one_that_is_not_set(with_program: dict[str, str], name: str) -> None:
    empty = {**with_program, name: ""}

    assert (aws_settings(empty), other_settings(empty)) == (aws_settings(with_program), other_settings(with_program))


def test_settings_of_aws_are_told_apart_from_others(with_program: dict[str, str]) -> None:
    environ = {**with_program, "AWS_PROFILE": "lab"}

    assert aws_settings(environ) == {"AWS_PROFILE": "lab"}
    assert "AWS_PROFILE" not in other_settings(environ)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AWS_CONFIG_FILE", "{home}/mine"),
        ("AWS_CONFIG_FILE", "~/mine"),
        ("AWS_SHARED_CREDENTIALS_FILE", "{home}/mine"),
    ],
)
def test_a_program_is_found_wherever_the_sdk_reads(plain: dict[str, str], variable: str, value: str) -> None:
    (Path(plain["HOME"]) / "mine").write_bytes(b"# caf\xe9\n[lab]\ncredential_process=x\n")

    assert has_credential_process({**plain, variable: value.format(home=plain["HOME"])})
    assert not has_credential_process(plain)


@pytest.mark.parametrize("value", ["/dev/null", "/nowhere", "/", "relative"])
def test_what_is_no_file_names_no_program(plain: dict[str, str], value: str) -> None:
    assert not has_credential_process({**plain, "AWS_CONFIG_FILE": value, "AWS_SHARED_CREDENTIALS_FILE": value})
