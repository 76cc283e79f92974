"""`systemctl` of a host that a test made, without systemd and root: units are processes, and their files are followed.

    python standin_systemctl.py FOLDER PORT REDIS-SERVER VERB [--now] UNIT …

FOLDER stands for the host's `/`. It knows the unit of Debian's Redis, and those whose files are installed; it does with
these what their Type, ExecStart, Environment and EnvironmentFile say, and passes over users and confinement.
"""

from __future__ import annotations

import configparser
import fnmatch
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import redis

REDIS = "redis-server"
VERBS = ("start", "stop", "restart", "enable", "daemon-reload")
NOT_KNOWN = 5


class Host:
    """The host's folder.

    Attributes:
        run: the files with the process ids of units, and their logs.
    """

    def __init__(self, folder: Path, port: int, redis_server: str) -> None:
        self._folder, self._port, self._redis_server = folder, port, redis_server
        self.run = folder / "run"

    def place(self, path: str) -> str:
        """Where a path of the host is."""
        return f"{self._folder}{path}" if path.startswith("/") else path

    def named(self, pattern: str) -> list[str]:
        """The units that a word names; with wildcards, those that run."""
        if "*" in pattern:
            return sorted(fnmatch.filter((path.stem for path in self.run.glob("*.pid")), pattern))
        return [pattern]

    def file(self, unit: str) -> Path:
        """The file of a unit; one that is not installed ends the command."""
        name, at, _ = unit.partition("@")
        path = Path(self.place(f"/etc/systemd/system/{name}{at}.service"))
        if not path.is_file():
            print(f"Unit {unit}.service not found.", file=sys.stderr)
            sys.exit(NOT_KNOWN)
        return path

    def start(self, unit: str) -> None:
        """Start a unit, and return when it says that it has started."""
        if (self.run / f"{unit}.pid").exists():
            return
        if unit == REDIS:
            self._start_redis()
        else:
            self._start_by_file(unit)

    def stop(self, unit: str) -> None:
        """Stop a unit, and return when it has ended."""
        if unit != REDIS:
            self.file(unit)
        written = self.run / f"{unit}.pid"
        if not written.exists():
            return
        pid = int(written.read_text())
        os.kill(pid, signal.SIGTERM)
        while is_alive(pid):
            time.sleep(0.02)  # it is nobody's child any more
        written.unlink()

    def _start_redis(self) -> None:
        words = [self._redis_server, self.place("/etc/redis/redis.conf"), "--supervised", "no", "--daemonize", "no"]
        started = self._started(REDIS, words, dict(os.environ))
        with redis.Redis(port=self._port, username="health", password="-") as client:
            while True:
                try:
                    client.ping()
                except redis.AuthenticationError:
                    return  # it has no such user: whether it should is not systemd's to say
                except redis.ConnectionError:
                    if started.poll() is not None:
                        self._failed(REDIS)
                    time.sleep(0.02)  # until it has read its data
                else:
                    return

    def _start_by_file(self, unit: str) -> None:
        file = configparser.RawConfigParser(strict=False, delimiters=("=",))
        file.optionxform = str  # type: ignore[assignment, method-assign]
        file.read_string(self.file(unit).read_text().replace("%i", unit.partition("@")[2]))
        service = file["Service"]
        settings = Path(self.place(service["EnvironmentFile"]))
        if not settings.is_file() or not settings.read_text():
            self._failed(unit, f"{settings} is not there")
        for folder in service["StateDirectory"].split():
            Path(self.place(f"/var/lib/{folder}")).mkdir(parents=True, exist_ok=True)
        # systemd gives it none of the variables of whoever starts it; here it needs what points it at a simulated AWS.
        environ = {key: value for key, value in os.environ.items() if key not in ("PUTER_REDIS_URL", "REDISCLI_AUTH")}
        variable, _, value = service["Environment"].partition("=")
        environ[variable] = self.place(value)
        environ |= dict(line.split("=", 1) for line in settings.read_text().splitlines())
        words = [self.place(word) for word in service["ExecStart"].split()]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            address = self.run / f"{unit}.notify"
            address.unlink(missing_ok=True)
            notified.bind(str(address))
            notified.settimeout(0.1)
            environ["NOTIFY_SOCKET"] = str(address)
            started = self._started(unit, words, environ, cwd=self.place(service["WorkingDirectory"]))
            told = b""
            while b"READY=1" not in told:
                try:
                    told = notified.recv(4096)
                except TimeoutError:
                    if started.poll() is not None:
                        self._failed(unit)

    def _started(
        self, unit: str, words: list[str], environ: dict[str, str], *, cwd: str = "/"
    ) -> subprocess.Popen[bytes]:
        with (self.run / f"{unit}.log").open("ab") as log:
            started = subprocess.Popen(
                words, env=environ, cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        (self.run / f"{unit}.pid").write_text(str(started.pid))
        return started

    def _failed(self, unit: str, why: str = "") -> None:
        (self.run / f"{unit}.pid").unlink(missing_ok=True)
        log = self.run / f"{unit}.log"
        print(f"{unit}.service did not start: {why}", log.read_text() if log.exists() else "", file=sys.stderr)
        sys.exit(1)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and whom nobody asked for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def main(folder: str, port: str, redis_server: str, verb: str, *words: str) -> None:
    host = Host(Path(folder), int(port), redis_server)
    options, units = [word for word in words if word[0] == "-"], [word for word in words if word[0] != "-"]
    if verb not in VERBS or options != (["--now"] if verb == "enable" else []) or bool(units) == (verb == VERBS[-1]):
        print(f"systemctl {verb} {' '.join(words)}: this stand-in does not know it", file=sys.stderr)
        sys.exit(1)
    for unit in (unit for word in units for unit in host.named(word)):
        if verb in ("stop", "restart"):
            host.stop(unit)
        if verb != "stop":
            host.start(unit)


if __name__ == "__main__":
    main(*sys.argv[1:])
