"""Ready-made ssh and rsync commands."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.ssh_commands import address, rsync_argv, rsync_command, ssh_argv, ssh_command


@pytest.fixture(autouse=True)
def keys_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every private key is on this computer, but those of others."""
    monkeypatch.setattr(Path, "is_file", lambda path: "others" not in str(path))


def record(**changes: Any) -> Record:
    return Record(namespace="betty", tag="one", phase=Phase.RUNNING, created_at=0.0, changed_at=0.0).replace(**changes)


def test_a_machine_is_reached_by_its_name_else_its_public_else_its_private_address() -> None:
    names = {"public_dns_name": "ec2.example", "public_ip": "192.0.2.1", "private_ip": "10.0.0.1"}

    assert address(record(**names)) == "ec2.example"
    assert address(record(**names | {"public_dns_name": None})) == "192.0.2.1"
    assert address(record(private_ip="10.0.0.1")) == "10.0.0.1"


def test_without_an_address_there_is_no_command() -> None:
    bare = record(private_key_path="/k")

    assert [ssh_argv(bare), ssh_command(bare), rsync_argv(bare, "./", "~/"), rsync_command(bare)] == [None] * 4


def test_ssh_uses_the_key_that_is_known() -> None:
    assert ssh_command(record(public_ip="192.0.2.1", private_key_path="/k/puter-v1.pem")) == (
        "ssh -i /k/puter-v1.pem ec2-user@192.0.2.1"
    )
    assert ssh_command(record(public_ip="192.0.2.1")) == "ssh ec2-user@192.0.2.1"


def test_a_path_with_spaces_and_signs_stays_one_word_for_ssh() -> None:
    path = "/my keys/$HOME's.pem"
    command = ssh_command(record(public_ip="192.0.2.1", private_key_path=path))

    assert command
    assert shlex.split(command)[2] == path


def test_rsync_copies_the_working_folder_without_its_history() -> None:
    assert rsync_command(record(public_ip="192.0.2.1", private_key_path="/k.pem")) == (
        'rsync -Paq --exclude .git -e "ssh -i /k.pem" ./ ec2-user@192.0.2.1:~/'
    )


def test_rsync_gets_the_key_as_one_word_of_its_shell() -> None:
    argv = rsync_argv(record(public_ip="192.0.2.1", private_key_path="/my keys/k.pem"), "./", "~/data/")

    assert argv
    assert shlex.split(argv[argv.index("-e") + 1]) == ["ssh", "-i", "/my keys/k.pem"]
    assert argv[-2:] == ["./", "ec2-user@192.0.2.1:~/data/"]


@pytest.mark.parametrize("user", ["ubuntu", "admin", "First.Last"])
def test_the_commands_sign_in_as_the_machines_user(user: str) -> None:
    there = record(public_ip="192.0.2.1", ssh_user=user)

    assert ssh_command(there) == f"ssh {user}@192.0.2.1"
    assert (rsync_command(there) or "").endswith(f" ./ {user}@192.0.2.1:~/")
    assert (rsync_argv(there, "./", "~/") or [])[-1] == f"{user}@192.0.2.1:~/"


@pytest.mark.parametrize(
    "user", [None, "", "-oProxyCommand=reboot", "a b", "$(reboot)", "u@elsewhere", "x\ny", "x" * 33]
)
def test_what_is_no_users_name_is_not_used(user: str | None) -> None:
    assert ssh_command(record(public_ip="192.0.2.1", ssh_user=user)) == "ssh ec2-user@192.0.2.1"


def test_a_key_that_is_on_another_computer_is_not_named() -> None:
    elsewhere = record(public_ip="192.0.2.1", private_key_path="/others/puter-v1.pem")

    assert ssh_command(elsewhere) == "ssh ec2-user@192.0.2.1"
    assert "-i" not in (rsync_command(elsewhere) or "")
    assert "-i" not in " ".join(rsync_argv(elsewhere, "./", "~/") or [])
