"""Redis's users: whether those who have requested something still exist."""

from __future__ import annotations

from collections.abc import Collection

import structlog
from redis.exceptions import NoPermissionError, ResponseError

from puter_worker.store.database import Database

_log = structlog.get_logger("puter.store")
_REMEDY = "let the worker's user run ACL USERS, as deploy/ does"


class Users:
    """The users in Redis's ACL. Nothing is kept: who was removed a moment ago is removed."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._told = False

    async def removed(self, users: Collection[str]) -> set[str]:
        """Those whom Redis, which has users, does not have; empty if Redis does not say, which is logged once.

        Ask after their requests were read: a user who was added since has not written them.
        """
        if not users:
            return set()
        try:
            names = await self._db.redis.acl_users()
        except ResponseError as error:
            if not isinstance(error, NoPermissionError) and "unknown" not in str(error).lower():
                raise
            self._tell("Redis does not say which users it has")
            return set()
        known = {name if isinstance(name, str) else name.decode(errors="replace") for name in names}
        if known == {"default"}:
            self._tell("Redis has no users but default")
            return set()
        return set(users) - known

    def _tell(self, why: str) -> None:
        if not self._told:
            self._told = True
            _log.warning("users.not_known", why=f"{why}: requests of removed users are taken", remedy=_REMEDY)
