"""How ssh is told of machines, whose facts come from Redis and are not trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from puter_client.cli.ssh import host_blocks, ssh_program
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record

HOSTS = Path("/home/b/private_keys/known_hosts")
FACTS: dict[str, Any] = {
    "phase": Phase.RUNNING,
    "created_at": 0.0,
    "changed_at": 0.0,
    "instance_id": "i-0123456789abcdef0",
    "public_dns_name": "ec2-203-0-113-25.compute-1.amazonaws.com",
    "private_key_path": "/home/b/private_keys/puter-v1.pem",
}


@pytest.fixture(autouse=True)
def keys_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every private key is on this computer, but one."""
    monkeypatch.setattr(Path, "is_file", lambda path: str(path) != "/gone.pem")


def record(tag: str = "one", **fields: Any) -> Record:
    return Record(namespace="betty", tag=tag, **FACTS | fields)


def hosts(*records: Record) -> list[str]:
    return [line for line in host_blocks(records, HOSTS) if line.startswith("Host ")]


def test_a_block_names_all_that_ssh_needs() -> None:
    assert host_blocks([record()], HOSTS) == [
        "",
        "Host puter-betty-one",
        "  HostName ec2-203-0-113-25.compute-1.amazonaws.com",
        "  User ec2-user",
        "  HostKeyAlias i-0123456789abcdef0",
        "  UserKnownHostsFile /home/b/private_keys/known_hosts",
        "  StrictHostKeyChecking accept-new",
        "  IdentityFile /home/b/private_keys/puter-v1.pem",
        "  IdentitiesOnly yes",
    ]


@pytest.mark.parametrize(("user", "named"), [("admin", "admin"), ("root\n  ProxyCommand reboot", "ec2-user")])
def test_a_block_has_the_machines_user_if_it_is_one(user: str, named: str) -> None:
    assert [line for line in host_blocks([record(ssh_user=user)], HOSTS) if "User " in line] == [f"  User {named}"]


def test_what_ssh_would_read_as_a_user_or_a_path_is_replaced() -> None:
    assert hosts(record("me@host:x")) == ["Host puter-betty-me_host_x"]


def test_two_machines_never_share_a_name() -> None:
    assert hosts(record("a:b"), record("a@b")) == ["Host puter-betty-a_b", "Host puter-betty-a_b-i-0123456789abcdef0"]


@pytest.mark.parametrize(
    "fields",
    [
        {"public_dns_name": "x\n  ProxyCommand evil"},
        {"public_dns_name": "-oProxyCommand=evil"},
        {"public_dns_name": None},
        {"instance_id": "i-1\n  ProxyCommand evil"},
        {"instance_id": None},
    ],
)
def test_a_machine_with_odd_facts_is_left_out(fields: dict[str, Any]) -> None:
    assert host_blocks([record(**fields)], HOSTS) == []


def test_an_odd_key_path_is_left_out() -> None:
    lines = host_blocks([record(private_key_path="/k\n  ProxyCommand evil")], HOSTS)
    assert not any("evil" in line for line in lines)


def test_a_path_with_blanks_and_percent_is_read_as_it_is() -> None:
    lines = host_blocks([record(private_key_path="/my keys/100%.pem")], HOSTS)
    assert '  IdentityFile "/my keys/100%%.pem"' in lines


def test_a_key_that_is_not_on_this_host_is_left_to_the_agent_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    command = ssh_program(record(private_key_path="/gone.pem", owner="ann"), HOSTS)
    assert "-i" not in command
    assert "IdentitiesOnly=yes" not in command
    assert "not on this computer, but on that of ann" in capsys.readouterr().err


def test_a_block_names_no_key_that_is_not_on_this_host() -> None:
    lines = host_blocks([record(private_key_path="/gone.pem")], HOSTS)
    assert lines
    assert not any("Identit" in line for line in lines)


def test_an_odd_instance_id_is_no_alias() -> None:
    assert not any("Alias" in word for word in ssh_program(record(instance_id="i-1 evil"), HOSTS))
