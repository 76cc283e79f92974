"""Network namespaces that end with this process: a loopback device, and a socket that listens inside."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CLONE_NEWNET = 0x40000000  # <linux/sched.h>


class NetworkNamespace:
    """A network of its own in which nothing but one address can be reached.

    Attributes:
        path: for programs that enter it; valid as long as this process has not closed it.
        listener: a socket that listens there, at the address.
    """

    def __init__(self, tools: Path, address: str, port: int) -> None:
        """`tools`: a root folder that has the command `ip`."""
        # A thread that has entered a namespace is of no more use to others, so it ends here.
        with ThreadPoolExecutor(1) as thread:
            self._fd, self.listener = thread.submit(_make, tools, address, port).result()
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"

    def close(self) -> None:
        """Let the namespace end, once nobody is inside."""
        self.listener.close()
        os.close(self._fd)


def _make(tools: Path, address: str, port: int) -> tuple[int, socket.socket]:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
    for words in (("link", "set", "lo", "up"), ("address", "add", f"{address}/32", "dev", "lo")):
        subprocess.run(["chroot", tools, "ip", *words], check=True)
    fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    return fd, socket.create_server((address, port))
