"""The disk that all machines start from: a Debian, built once and kept in the user's cache folder.

`python -m tests.machine.root` builds it if it is not there, and says in one line what is missing if it cannot.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE = "PUTER_MACHINE_CACHE"
SUITE = "bookworm"
# debootstrap does not resolve that python3-cffi-backend provides what python3-cryptography (of cloud-init) asks for.
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "at", "sudo", "iproute2", "curl", "python3", "procps", "util-linux",
    "python3-cffi-backend", "cloud-init",
)  # fmt: skip
# Nothing is to survive a power cut, and nobody reads manuals there.
_DPKG = """\
force-unsafe-io
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/man/*
"""
# Where `image.py` has package managers take `at` from: images of EC2 do not all have it.
SHELF = "usr/lib/puter-machine"
_SHELVED = (
    "usr/bin/at",
    "usr/bin/atq",
    "usr/bin/atrm",
    "usr/sbin/atd",
    "etc/init.d/atd",
    "usr/lib/systemd/system/atd.service",
)
# An image has one package manager, and none that works without a network; timers would wake up to use it.
_REMOVED = (
    "usr/bin/apt", "usr/bin/apt-get", "etc/machine-id", "etc/hostname",
    "etc/systemd/system/multi-user.target.wants/atd.service",
    "etc/systemd/system/timers.target.wants", "usr/lib/systemd/system/timers.target.wants",
)  # fmt: skip
_TOOLS = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}


class CannotBuild(Exception):
    """Why there is no root folder; one line, with what to do."""


def cache_folder() -> Path:
    """Where root folders are kept: $PUTER_MACHINE_CACHE, else `puter-machine-test` in the user's cache folder."""
    if chosen := os.environ.get(CACHE):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "puter-machine-test"


def root_folder() -> Path:
    """The root folder with these packages and changes, built if it is not there.

    Raises:
        CannotBuild: this is not root on Linux, a tool is missing, or debootstrap fails.
    """
    _check_host()
    cache = cache_folder()
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    contents = repr((PACKAGES, _DPKG, _SHELVED, _REMOVED))
    root = cache / f"{SUITE}-{hashlib.sha256(contents.encode()).hexdigest()[:12]}"
    with _locked(cache / "lock"):
        if not root.exists():
            building = cache / "building"
            print(f"machine-test: building {root}, which takes 2 to 3 minutes", flush=True)
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir()
            _build(building, cache / "build.log")
            building.rename(root)
    return root


def _check_host() -> None:
    if sys.platform != "linux":
        raise CannotBuild(f"machines boot on Linux only, and this is {sys.platform}")
    if os.geteuid() != 0:
        raise CannotBuild("machines are booted by root alone: run `sudo make machine-test`")
    missing = [name for name in _TOOLS if shutil.which(name) is None]
    if missing:
        packages = sorted({_TOOLS[name] for name in missing})
        raise CannotBuild(f"not found: {', '.join(missing)}; install them: apt-get install {' '.join(packages)}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(root: Path, log: Path) -> None:
    dpkg = root / "etc/dpkg/dpkg.cfg.d"
    dpkg.mkdir(parents=True)
    (dpkg / "puter-machine").write_text(_DPKG)
    # In a mount namespace of its own: what debootstrap has mounted goes with it, however it ends.
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "debootstrap", "--variant=minbase"]
    command += [f"--include={','.join(PACKAGES)}", SUITE, str(root), *_mirror()]
    with log.open("w") as file:
        built = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, check=False)
    if built.returncode:
        said = log.read_text().strip().splitlines() or ["nothing"]
        raise CannotBuild(f"debootstrap failed, its last words: {said[-1]} (all of them: {log})")
    for name in _SHELVED:
        there = root / SHELF / name
        there.parent.mkdir(parents=True, exist_ok=True)
        (root / name).rename(there)
    for name in _REMOVED:
        path = root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    # Empty, as in the images of a cloud: each machine makes its own.
    (root / "etc/machine-id").touch()
    shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)


def _mirror() -> list[str]:
    """The mirror that this host's own apt uses for the suite; none leaves it to debootstrap."""
    try:
        asked = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return []
    rows = [line.split() for line in asked.stdout.splitlines()]
    return [row[1] for row in rows if len(row) == 2 and row[0] == SUITE][:1]


def main() -> None:
    """Says where the root folder is, or why there is none."""
    try:
        root = root_folder()
    except CannotBuild as error:
        print(f"machine-test: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"machine-test: machines boot from {root}", flush=True)


if __name__ == "__main__":
    main()
