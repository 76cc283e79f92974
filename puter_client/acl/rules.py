"""What each kind of user of a shared Redis may do: the one place of these rules.

docs/operations.md shows them, and a test holds the page to this module.
"""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

from puter_client.contract.inbox import Inbox
from puter_client.store import names


class Role(StrEnum):
    """What a user is for."""

    CLIENT = "client"
    VIEWER = "viewer"
    WORKER = "worker"
    ADMIN = "admin"
    REPLICA = "replica"
    SENTINEL = "sentinel"


# There is one user of each of these roles, with the role's name.
SERVICES = (Role.WORKER, Role.ADMIN, Role.REPLICA, Role.SENTINEL)
# The lines of every file. A password of `default` would be everybody's; a health check needs none to PING.
FIRST_LINES = ("user default off", "user health on nopass resetkeys resetchannels -@all +ping")
RESERVED = frozenset({"default", "health", *SERVICES})

_VIEWER = (
    "resetkeys %R~puter:{namespace}:* %R~puter:_public:* resetchannels &puter:{namespace}:* -@all +get +hget +hmget "
    "+hgetall +hscan +lrange +zrange +zrevrange +zrangebyscore +multi +exec +discard +subscribe +unsubscribe +time "
    "+ping +select +client|setinfo"
)
# Selectors, because Redis has no key for an empty list or set: who could RPUSH to an empty ready set would make it a
# list, and stop the requests of all clients.
_CLIENT = (
    f"{_VIEWER} +wait (%W~{{inbox}} resetchannels -@all +rpush +llen) (%W~{names.READY} resetchannels -@all +sadd) "
    f"(resetchannels &{names.READY} -@all +publish)"
)
_DATA = (
    "resetkeys ~puter:* ~arq:* resetchannels &puter:* -@all +@read +@write +@transaction +@connection +@pubsub "
    "-@dangerous -@scripting +evalsha +script|load +script|exists +info +time +dbsize +wait +waitaof"
)
_RULES = {
    Role.CLIENT: _CLIENT,
    Role.VIEWER: _VIEWER,
    Role.WORKER: f"{_DATA} +acl|users",
    # No rule that would let it give itself more: ACL LOAD takes what is in the file, ACL SETUSER would take anything.
    # Redis protects the settings of its files from CONFIG SET (enable-protected-configs).
    Role.ADMIN: (
        f"{_DATA} +acl|load +acl|list +acl|users +acl|whoami +acl|getuser +acl|log +config|get +config|set "
        "+client|list +client|kill +bgrewriteaof +bgsave +lastsave +role +memory|usage +memory|stats +memory|doctor "
        "+slowlog|get +slowlog|len +latency|latest +latency|history"
    ),
    # As Redis documents it: https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/
    # And SYNC, which Valkey sends with dual-channel-replication-enabled.
    Role.REPLICA: "resetkeys resetchannels -@all +psync +sync +replconf +ping",
    # What Sentinels of Redis 7.0 and Valkey 9 send (src/sentinel.c). That page also has ROLE, which neither sends, and
    # all channels. FAILOVER and CLIENT PAUSE, UNPAUSE are Valkey's, for SENTINEL FAILOVER … COORDINATED.
    Role.SENTINEL: (
        "resetkeys resetchannels &__sentinel__:hello -@all +ping +info +publish +subscribe +multi +exec +slaveof "
        "+config|rewrite +client|setname +client|kill +script|kill +failover +client|pause +client|unpause"
    ),
}
_NAMESPACE = re.compile(r" %R~puter:([a-z0-9][a-z0-9-]{0,38}):\* ")


def rules(role: Role, *, user: str, namespace: str | None = None, redis_7_0: bool = False) -> str:
    """What stands behind the password in a user's line.

    Args:
        role: what the user is for.
        user: its name.
        namespace: of a client or viewer.
        redis_7_0: for Redis 7.0, which has neither WAITAOF nor CLIENT SETINFO: there, workers ask with CONFIG GET
            whether writes are on disk.
    """
    inbox = names.inbox(str(Inbox(namespace, user))) if namespace else ""
    text = _RULES[role].format(namespace=namespace, inbox=inbox)
    if redis_7_0:
        text = text.replace(" +client|setinfo", "")
        text = text.replace(" +waitaof", "" if "+config|get" in text else " +config|get")
    return text


def line(name: str, password_hash: str, rules: str) -> str:
    """The line of a user; `password_hash`: SHA-256 of its password, in hexadecimal."""
    return f"user {name} on #{password_hash} {rules}"


class AclUser(msgspec.Struct, frozen=True, kw_only=True):
    """A user as its line has it.

    Attributes:
        name: of the user.
        role: what it is for; None for `default`, `health`, and what somebody has written by hand.
        namespace: of a client or viewer.
        enabled: whether it may sign in.
    """

    name: str
    role: Role | None
    namespace: str | None
    enabled: bool

    @classmethod
    def read(cls, text: str) -> AclUser | None:
        """The user of a line of the file, or of ACL LIST; None if it is no user's."""
        words = text.split()
        if len(words) < 2 or words[0].lower() != "user":
            return None
        name, states = words[1], [word.lower() for word in words[2:] if word.lower() in ("on", "off")]
        namespaced = _NAMESPACE.search(text)
        role = None
        if namespaced:
            role = Role.CLIENT if f"~{names.inbox('')}" in text else Role.VIEWER
        elif name in SERVICES:
            role = Role(name)
        return cls(
            name=name,
            role=role,
            namespace=namespaced[1] if namespaced else None,
            enabled=states[-1:] == ["on"],
        )
