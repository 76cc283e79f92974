"""The inbox of a client: where it appends its requests, and so who it is.

Redis lets a user write to the inbox of its own name alone, so the name of an inbox proves who wrote what is in it.
"""

from __future__ import annotations

import msgspec

from puter_client.contract.key import check_namespace, check_user

# Bytes of the longest text of an inbox: a namespace has up to 39, a user up to 64 (contract.key), and a colon.
LONGEST = 39 + 1 + 64


class Inbox(msgspec.Struct, frozen=True, order=True):
    """The inbox of one user in one namespace; its text is `<namespace>:<user>`, or `<namespace>` without a user.

    Attributes:
        namespace: of all requests in it.
        user: the Redis user who writes to it; None where Redis knows no users, as that of the local engine.
    """

    namespace: str
    user: str | None = None

    def __str__(self) -> str:
        return self.namespace if self.user is None else f"{self.namespace}:{self.user}"

    @classmethod
    def parse(cls, text: str) -> Inbox:
        """The inbox that `str()` wrote.

        Raises:
            InvalidInput: the text names no inbox.
        """
        namespace, colon, user = text.partition(":")
        return cls(check_namespace(namespace), check_user(user) if colon else None)
