"""What a worker tells its service manager, read from real sockets as systemd makes them."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from puter_worker.supervisor import Supervisor


@contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    """A service manager that listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listens:
        listens.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        listens.settimeout(30)
        yield listens


def addresses(folder: Path) -> list[str]:
    return [str(folder / "notify"), f"@puter-test-{os.getpid()}-{os.urandom(4).hex()}"]


@pytest.mark.parametrize("which", [0, 1], ids=["a path", "an abstract name"])
def test_assignments_arrive_as_one_datagram(tmp_path: Path, which: int) -> None:
    address = addresses(tmp_path)[which]
    with manager(address) as listens:
        Supervisor({"NOTIFY_SOCKET": address}).tell("READY=1", "STATUS=fine")

        assert listens.recv(100) == b"READY=1\nSTATUS=fine"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere/at/all"}])
def test_without_a_service_manager_nothing_happens(environ: dict[str, str]) -> None:
    Supervisor(environ).tell("READY=1")


def test_a_service_manager_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with manager(address):
        supervisor = Supervisor({"NOTIFY_SOCKET": address})
        for _ in range(2_000):  # more than the socket's buffer takes
            supervisor.tell("WATCHDOG=1")


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "120000000"}, 120.0),
        ({"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": str(os.getpid())}, 120.0),
        (
            {"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": "1"},
            0.0,
        ),  # another process is meant
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_the_watchdog_is_the_service_managers(environ: dict[str, str], watchdog_s: float) -> None:
    assert Supervisor(environ).watchdog_s == watchdog_s


async def test_nobody_who_did_not_ask_is_told() -> None:
    await Supervisor({}).keep_told(list)


async def test_a_worker_whose_stage_hangs_says_nothing_until_it_goes_on(tmp_path: Path) -> None:
    address, hangs, asked = str(tmp_path / "notify"), ["launch"], 0

    def hanging() -> list[str]:
        nonlocal asked
        asked += 1
        return hangs

    with manager(address) as listens:
        listens.setblocking(False)
        telling = asyncio.create_task(
            Supervisor({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000"}).keep_told(hanging)
        )
        while asked < 5:
            await asyncio.sleep(0)
        with pytest.raises(BlockingIOError):
            listens.recv(100)
        hangs.clear()
        told = await asyncio.get_running_loop().sock_recv(listens, 100)
        telling.cancel()

    assert told == b"WATCHDOG=1"
