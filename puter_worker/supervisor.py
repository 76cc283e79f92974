"""What a worker tells the service manager that started it: that it takes requests, that it works, that it ends.

The protocol is systemd's sd_notify: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

import structlog

_log = structlog.get_logger("puter.worker")
_TIMES_IN_A_WATCHDOG = 3  # a busy host may delay one of them


class Supervisor:
    """The service manager, if there is one."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        ours = not pid or pid == str(os.getpid())
        self.watchdog_s = int(usec) / 1e6 if ours and usec.isascii() and usec.isdigit() else 0.0

    def tell(self, *lines: str) -> None:
        """Send these assignments. A service manager that cannot be reached is one that does not listen."""
        if not self._address:
            return
        # A name that begins with @ is in the kernel's abstract namespace, which begins with a NUL.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.setblocking(False)
            to.sendto("\n".join(lines).encode(), address)

    async def keep_told(self, hanging: Callable[[], list[str]]) -> None:
        """Tell that the worker works, as long as nothing hangs, until cancelled. Returns if nobody asked for it."""
        while self.watchdog_s:
            if names := hanging():
                _log.error("worker.hangs", stages=names, why="the service manager is to start it again")
            else:
                self.tell("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / _TIMES_IN_A_WATCHDOG)
