"""What a worker remembers about targets even if Redis forgets it: in memory, and in its state folder.

A Redis that was emptied, or restored to an older state, no longer knows what was launched a moment ago, and EC2 may
not show it yet. A worker that remembers a launch waits until EC2 shows all instances before it launches again; and it
knows in which targets machines may live of which Redis knows nothing.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import msgspec
import structlog

from puter_worker.clock import Clock

_log = structlog.get_logger("puter.memory")


class Epoch(msgspec.Struct, frozen=True):
    """How far a Redis has got.

    Attributes:
        epoch_id: random; made when a worker first saw this Redis empty.
        launches: how many intents were opened since then.
    """

    epoch_id: str
    launches: int


class Remembered(msgspec.Struct, frozen=True):
    """What a worker knows about a target independently of Redis.

    Attributes:
        epoch: the furthest that this worker has seen.
        launched_at: when the last launch that this worker knows of, by any worker, was sent; seconds of this host's
            clock, 0 is never.
        launched_uptime: the same in seconds since the host was started.
        target: the target.
    """

    epoch: Epoch
    launched_at: float = 0.0
    launched_uptime: float | None = None
    target: str = ""

    def launched_ago_s(self, clock: Clock) -> float:
        """How long ago the last launch was, at least: this host's clock may have been set since."""
        by_clock = max(0.0, clock.host_now() - self.launched_at)
        if self.launched_uptime is None:
            return by_clock
        by_uptime = clock.monotonic() - self.launched_uptime
        return min(by_clock, by_uptime) if by_uptime >= 0 else by_clock  # below 0: the host was started since

    def contradicts(self, shown: Epoch) -> bool:
        """Whether Redis has forgotten something since then; `shown` is how far it says it has got."""
        return shown.epoch_id != self.epoch.epoch_id or shown.launches < self.epoch.launches


class Memory:
    """What this worker remembers about each target."""

    def __init__(self, folder: Path | None, *, clock: Clock) -> None:
        """`folder`: keeps it when the process ends; if it is None or cannot be written, nothing is kept."""
        self._folder = folder
        self._clock = clock
        self._known: dict[str, Remembered] = {}
        self._has_read_all = False
        self.seen_alive: set[str] = set()

    def launched_in(self) -> dict[str, Remembered]:
        """What is remembered of targets in which something was launched."""
        if self._folder is not None and not self._has_read_all:
            for file in self._folder.glob("*.json"):
                known = _read(file)
                # A file may be damaged: only one that names its own target is used.
                if known is not None and known.target.count(":") >= 2 and self._file(known.target) == file:
                    self._known.setdefault(known.target, known)
        self._has_read_all = True
        return {target: known for target, known in self._known.items() if known.launched_at > 0}

    def of(self, target: str) -> Remembered | None:
        """What is remembered about a target; None if this worker has never seen it."""
        if target not in self._known and self._folder is not None:
            known = _read(self._file(target))
            if known is not None:
                self._known[target] = known
        return self._known.get(target)

    def keep(self, target: str, known: Remembered) -> None:
        """Remember this from now on."""
        if self._known.get(target) == known:
            return
        self._known[target] = known
        if self._folder is None:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Workers in containers may share this folder and have the same process id: the suffix is random.
            new = self._file(target).with_suffix(f".{secrets.token_hex(4)}")
            new.touch(mode=0o600)
            new.write_bytes(msgspec.json.encode(known))
            new.replace(self._file(target))
        except OSError as error:
            _log.warning("memory.not_kept", folder=str(self._folder), error=type(error).__name__)
            self._folder = None

    def saw(self, target: str, shown: Epoch) -> None:
        """Remember how far Redis says it has got.

        Launches of other workers since the last look count as launched now: this worker may be the only one that
        remembers them.
        """
        known = self.of(target)
        before = known.epoch.launches if known is not None and not known.contradicts(shown) else 0
        self.seen_alive.add(target)
        if shown.launches > before or known is None:
            known = self._now(target, shown) if shown.launches > before else Remembered(shown, target=target)
        self.keep(target, msgspec.structs.replace(known, epoch=shown, target=target))

    def launches(self, target: str) -> None:
        """Remember that a launch is about to be sent."""
        known = self.of(target)
        if known is not None:
            self.keep(target, self._now(target, known.epoch))

    def _now(self, target: str, epoch: Epoch) -> Remembered:
        return Remembered(epoch, self._clock.host_now(), self._clock.monotonic(), target)

    def _file(self, target: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{hashlib.sha256(target.encode()).hexdigest()[:16]}.json"


def _read(file: Path) -> Remembered | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Remembered)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
