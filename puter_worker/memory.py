"""What a worker remembers of a target when Redis forgets: in memory, and in its state folder.

A Redis that was emptied, or put back to an older state, no longer knows what was launched a moment ago, and EC2 may
not show it yet. Whoever remembers a launch waits before it launches again, until EC2 shows what there is.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import msgspec
import structlog

_log = structlog.get_logger("puter.memory")


class Epoch(msgspec.Struct, frozen=True):
    """How far a Redis has got.

    Attributes:
        epoch_id: random; made when Redis was first seen empty.
        launches: how many intents were opened since.
    """

    epoch_id: str
    launches: int


class Remembered(msgspec.Struct, frozen=True):
    """What is known of a target whatever Redis says.

    Attributes:
        epoch: the furthest that was seen.
        launched_at: when the last launch known here, by whichever worker, was sent; seconds of this host's clock, 0 is
            never.
    """

    epoch: Epoch
    launched_at: float = 0.0

    def contradicts(self, shown: Epoch) -> bool:
        """Whether Redis has forgotten something since."""
        return shown.epoch_id != self.epoch.epoch_id or shown.launches < self.epoch.launches


class Memory:
    """What this worker remembers, by target."""

    def __init__(self, folder: Path | None) -> None:
        """`folder`: where it outlives the process; None, or one that cannot be written: it does not."""
        self._folder = folder
        self._known: dict[str, Remembered] = {}
        self.seen_alive: set[str] = set()

    def of(self, target: str) -> Remembered | None:
        """What is remembered of a target; None if it was never seen from here."""
        if target not in self._known and self._folder is not None:
            try:
                self._known[target] = msgspec.json.decode(self._file(target).read_bytes(), type=Remembered)
            except (OSError, msgspec.DecodeError, UnicodeDecodeError):
                return None
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
            # Workers in containers may share this folder, and have the same process id.
            new = self._file(target).with_suffix(f".{secrets.token_hex(4)}")
            new.touch(mode=0o600)
            new.write_bytes(msgspec.json.encode(known))
            new.replace(self._file(target))
        except OSError as error:
            _log.warning("memory.not_kept", folder=str(self._folder), error=type(error).__name__)
            self._folder = None

    def saw(self, target: str, shown: Epoch, now: float) -> None:
        """Redis has shown itself this far, at a time of this host's clock.

        What other workers have launched since counts as launched now: this one may be all that remembers it.
        """
        known = self.of(target)
        before = known.epoch.launches if known is not None and not known.contradicts(shown) else 0
        launched_at = now if shown.launches > before else known.launched_at if known is not None else 0.0
        self.seen_alive.add(target)
        self.keep(target, Remembered(shown, launched_at))

    def _file(self, target: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{hashlib.sha256(target.encode()).hexdigest()[:16]}.json"
