"""Ready-made ssh and rsync commands for a machine."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from puter_client.contract.os_image import DEFAULT_SSH_USER, SSH_USER
from puter_client.contract.record import Record

# Texts in which no shell replaces anything within double quotes.
_PLAIN = re.compile(r"[A-Za-z0-9_./~@%+=:,-]+")
_USER = re.compile(SSH_USER)


def address(record: Record) -> str | None:
    """The machine's public DNS name, else its public or private IP address."""
    return record.public_dns_name or record.public_ip or record.private_ip


def ssh_user(record: Record) -> str:
    """The user to sign in as; what a record has is not trusted: ssh reads `-o…@host` as an option."""
    user = record.ssh_user or ""
    return user if _USER.fullmatch(user) else DEFAULT_SSH_USER


def private_key(record: Record) -> str | None:
    """The path of the machine's private key, if it is on this computer: the request may have come from another one."""
    path = record.private_key_path
    try:
        return path if path and Path(path).is_file() else None
    except OSError:  # it is no path of this computer: too long, or in a folder of somebody else
        return None


def ssh_argv(record: Record) -> list[str] | None:
    """The command that opens a shell on the machine; None while it has no address."""
    host = address(record)
    if host is None:
        return None
    path = private_key(record)
    return ["ssh", *(["-i", path] if path else []), f"{ssh_user(record)}@{host}"]


def ssh_command(record: Record) -> str | None:
    """`ssh_argv`, ready to paste."""
    argv = ssh_argv(record)
    return shlex.join(argv) if argv else None


def rsync_argv(record: Record, source: str, destination: str) -> list[str] | None:
    """The command that copies a folder to the machine; None while it has no address."""
    host = address(record)
    if host is None:
        return None
    path = private_key(record)
    shell = ["ssh", "-i", path] if path else ["ssh"]
    target = f"{ssh_user(record)}@{host}:{destination}"
    return ["rsync", "-Paq", "--exclude", ".git", "-e", shlex.join(shell), source, target]


def rsync_command(record: Record) -> str | None:
    """The command that copies the working folder to the machine's home, ready to paste."""
    host = address(record)
    if host is None:
        return None
    path = private_key(record)
    if not all(_PLAIN.fullmatch(text) for text in (host, path) if text):
        return shlex.join(rsync_argv(record, "./", "~/") or [])
    shell = f"ssh -i {path}" if path else "ssh"
    return f'rsync -Paq --exclude .git -e "{shell}" ./ {ssh_user(record)}@{host}:~/'
