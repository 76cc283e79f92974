"""Redis's users: whether the one whose inbox is read still exists."""

from __future__ import annotations

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

    async def is_removed(self, user: str) -> bool:
        """Whether Redis has users, and none of this name; False if Redis does not say, which is logged once.

        Ask after the user's requests were read: a user who was added since has not written them.
        """
        try:
            names = await self._db.redis.acl_users()
        except ResponseError as error:
            if not isinstance(error, NoPermissionError) and "unknown" not in str(error).lower():
                raise
            self._tell("Redis does not say which users it has")
            return False
        known = {name if isinstance(name, str) else name.decode(errors="replace") for name in names}
        if known == {"default"}:
            self._tell("Redis has no users but default")
            return False
        return user not in known

    def _tell(self, why: str) -> None:
        if not self._told:
            self._told = True
            _log.warning("users.not_known", why=f"{why}: requests of removed users are taken", remedy=_REMEDY)
