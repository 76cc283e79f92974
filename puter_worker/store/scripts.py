"""The Lua scripts beside this module, loaded once and run by their hash."""

from __future__ import annotations

from importlib.resources import files
from typing import Any


class Scripts:
    """Each script as redis-py's callable, which reloads itself when Redis has forgotten it."""

    def __init__(self, redis: Any) -> None:
        def registered(name: str) -> Any:
            return redis.register_script(files(__package__).joinpath(f"{name}.lua").read_text())

        self.txn = registered("txn")
        self.feed = registered("feed")
        self.start = registered("start")
        self.take = registered("take")
        self.leave_ready = registered("leave_ready")
        self.leave = registered("leave")
        self.claim = registered("claim")
        self.lease = registered("lease")
        self.release = registered("release")
        self.bucket = registered("bucket")
