"""What an error of Redis means and what to do about it, in words that hold no secret."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from puter_client.store.redis_url import ENCODE, URL_VARIABLE, RedisUrl

Role = Literal["client", "worker", "admin"]

CLUSTER_MODE = "is in cluster mode, which Puter cannot use: name a Redis with cluster-enabled no; replicas are fine"
# How an answer of Redis begins for which redis-py has no class of its own, as in the source of Valkey 9 (src/server.c,
# src/cluster.c, src/networking.c, src/acl.c).
_ANSWERS = (
    ("CLUSTERDOWN", CLUSTER_MODE),
    ("MOVED ", CLUSTER_MODE),
    ("ASK ", CLUSTER_MODE),
    ("CROSSSLOT", CLUSTER_MODE),
    ("TRYAGAIN", CLUSTER_MODE),
    ("SELECT is not allowed in cluster mode", CLUSTER_MODE),
    ("DB index is out of range", "has no database of that number: name another, or raise its setting databases"),
    ("MASTERDOWN", "is a replica that has lost its primary: name the primary in PUTER_REDIS_URL"),
    ("MISCONF", "cannot write its data to disk and refuses writes: see its log, and the free space of its disk"),
    ("NOREPLICAS", "refuses writes because too few replicas follow it (min-replicas-to-write): see its replicas"),
    ("DENIED", "refuses other hosts because it has no password: give it users that have one (puter admin user add)"),
    ("BUSY ", "is busy with a script that takes long: wait, or end it with SCRIPT KILL"),
    ("max number of clients reached", "has as many clients as it takes: raise its maxclients, or end some"),
    ("AUTH <password> called without any", "has no password: remove it from PUTER_REDIS_URL, or name its user"),
)
_NOT_PERMITTED = {
    "client": "perhaps the user has another namespace (set --namespace or PUTER_NAMESPACE), or may only read",
    "worker": "it must name a user with a worker's rights (puter admin user add --worker creates it)",
    "admin": "it must name the user admin (puter admin user add --admin creates it)",
}
# Passwords that `puter admin user` makes; none of their characters needs to be encoded.
_MADE_BY_PUTER = re.compile("[0-9a-f]{64}")
_NOT_LOADED = (
    "if they are new, Redis has not read its file of users (its administrator sets aclfile, and restarts it); if they "
    "are old, the user was removed or has a new password"
)
# Answers that a Redis gives only for a while.
_PASSING = ("NOREPLICAS", "MASTERDOWN")
_CLIENT_CERTIFICATE = "add ?ssl_certfile=FILE&ssl_keyfile=FILE to PUTER_REDIS_URL"


def why_refused(url: str, error: Exception, role: Role = "client", *, named_by: str = URL_VARIABLE) -> str:
    """Why a command to the Redis at this URL failed, and what to do; contains no secret.

    Args:
        url: URL of the connection.
        error: of redis-py or of the system; its text is not shown, since it may quote what was sent.
        role: of the user that the URL must name.
        named_by: the setting that holds the URL; the texts below name the variable in its place.
    """
    to = RedisUrl.parse(url)
    if to.sentinels and (told := _not_found(error)):
        return f"Redis at {to} {told.replace(URL_VARIABLE, named_by)}"
    for cause in _causes(error):
        if told := _answered(cause, to, role) or _not_secure(cause) or _not_reached(cause, to):
            return f"Redis at {to} {told.replace(URL_VARIABLE, named_by)}"
    kind = type(error).__name__
    return f"Redis at {to} does not answer ({kind}): check that it runs and that {named_by} is right"


def is_not_permitted(error: Exception) -> bool:
    """Whether Redis refuses it to this user."""
    from redis.exceptions import NoPermissionError

    return isinstance(error, NoPermissionError)


def is_not_let_in(error: Exception) -> bool:
    """Whether Redis does not take the user or the password."""
    from redis.exceptions import AuthenticationError

    return any(isinstance(cause, AuthenticationError) for cause in _causes(error))


def may_pass(error: Exception) -> bool:
    """Whether it may help to wait: Redis is not there, or starts, or another server is becoming the primary."""
    from redis.exceptions import ReadOnlyError, ResponseError

    if is_not_let_in(error):
        return False  # to redis-py, a ConnectionError
    if isinstance(error, ReadOnlyError):
        return True
    return not isinstance(error, ResponseError) or _answer(error).startswith(_PASSING)


def _answer(error: BaseException) -> str:
    """What Redis has answered; a pipeline writes before it which command it was that failed."""
    return str(error).rpartition("caused error: ")[2].lstrip("('\"")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those that led to it: redis-py tells of most failures as a ConnectionError."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _not_found(error: BaseException) -> str | None:
    """Sentinels do not say where the primary is, or TLS with them could not be set up."""
    from redis.exceptions import AuthenticationError, ResponseError

    from puter_client.store.sentinel import NoPrimary, Why

    no_primary = next((cause for cause in _causes(error) if isinstance(cause, NoPrimary)), None)
    if no_primary is None:
        return None
    if insecure := next((told for cause in _causes(error) if (told := _not_secure(cause))), None):
        return insecure
    match no_primary.why, no_primary.__cause__:
        case Why.UNKNOWN, _:
            return "is not known to its Sentinels: check the name of the service in PUTER_REDIS_URL"
        case Why.DOWN, _:
            return "is down, as its Sentinels say: wait until they have chosen another primary, or see their logs"
        case Why.REPLICA, _:
            return "is failing over: the server that its Sentinels name is still a replica; wait, and try again"
        case _, AuthenticationError():
            return (
                "has Sentinels that refuse their user or password: set sentinel_user and sentinel_password in "
                "PUTER_REDIS_URL to what they require, and check that its ports are those of Sentinels"
            )
        case _, ResponseError():
            return (
                "has Sentinels that refuse to name it: check that these are the ports of Sentinels, and that their "
                "user may use SENTINEL MASTERS"
            )
    return "cannot be found, since none of its Sentinels answers: check that they run, and their hosts and ports"


def _answered(error: BaseException, to: RedisUrl, role: Role) -> str | None:
    """Redis has answered with an error."""
    from redis.exceptions import (
        AuthenticationError,
        BusyLoadingError,
        InvalidResponse,
        NoPermissionError,
        OutOfMemoryError,
        ReadOnlyError,
        ResponseError,
    )
    from redis.exceptions import ConnectionError as RedisConnectionError

    if isinstance(error, ResponseError | RedisConnectionError):
        answer = _answer(error)
        for beginning, told in _ANSWERS:
            if answer.startswith(beginning):
                return told
    match error:
        case AuthenticationError():
            return _not_let_in(to)
        case NoPermissionError():
            return f"does not permit this to the user of PUTER_REDIS_URL: {_NOT_PERMITTED[role]}"
        case OutOfMemoryError():
            return "is out of memory: raise its maxmemory, or wait until old records expire"
        case ReadOnlyError():
            choose = "wait until its Sentinels have chosen another primary"
            remedy = choose if to.sentinels else "name its primary in PUTER_REDIS_URL"
            return f"is a read-only replica: {remedy}"
        case BusyLoadingError():
            return "is still reading its data from disk: wait until it has, and try again"
        case InvalidResponse():
            return "does not answer as Redis does: check host and port (for a TLS port, write rediss://)"
        case ResponseError():
            return f"refused a command ({type(error).__name__}): Puter needs Redis 7.0 or newer, or Valkey"
    return None


def _not_let_in(to: RedisUrl) -> str:
    """The user or the password is missing or wrong."""
    match bool(to.user), bool(to.password):
        case True, True:
            remedy = _NOT_LOADED if _MADE_BY_PUTER.fullmatch(to.password) else ENCODE
            return f"refuses the user or the password: check both in PUTER_REDIS_URL; {remedy}"
        case True, False:
            return "requires a password: PUTER_REDIS_URL names a user without one (redis://user:password@host)"
        case False, True:
            return "refuses the password: PUTER_REDIS_URL names no user (redis://user:password@host)"
        case _:
            return "requires a user and a password: add them to PUTER_REDIS_URL"


def _not_secure(error: BaseException) -> str | None:
    """TLS could not be set up."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        # OpenSSL's X509_V_ERR_…: CERT_NOT_YET_VALID, CERT_HAS_EXPIRED; HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH.
        match error.verify_code:
            case 9 | 10:
                return "has a certificate that is not valid now: renew it, or set this computer's clock"
            case 62 | 64:
                return (
                    "has a certificate for another host: write the host that it names, or, if an ssh tunnel leads "
                    "there, add ?ssl_check_hostname=false to PUTER_REDIS_URL"
                )
            case _:
                return (
                    "has a certificate that this computer does not trust: add ?ssl_ca_certs=FILE to PUTER_REDIS_URL, "
                    "with the certificate of the authority that signed it"
                )
    if not isinstance(error, ssl.SSLError):
        return None
    reason = error.reason or type(error).__name__
    if "CERTIFICATE_REQUIRED" in reason:
        return f"requires a certificate of its clients: {_CLIENT_CERTIFICATE}"
    return (
        f"does not complete the TLS handshake ({reason}): for a plain port, write redis://; if it requires a "
        f"certificate of its clients, {_CLIENT_CERTIFICATE}"
    )


def _not_reached(error: BaseException, to: RedisUrl) -> str | None:
    """No connection, or no answer on it."""
    import socket

    from redis.exceptions import TimeoutError as RedisTimeoutError

    match error:
        case RedisTimeoutError() | TimeoutError():
            look = "" if to.scheme == "unix" else ", and that no firewall is in between"
            plain = "; for a plain port, write redis" + to.scheme.removeprefix("rediss") + "://" if to.has_tls else ""
            running = "check that it runs and is not suspended or overloaded"
            return f"does not answer in time: {running}{look}{plain}"
        case socket.gaierror():
            return "does not answer: its host's name cannot be resolved; check the host in PUTER_REDIS_URL"
        case FileNotFoundError() if to.scheme == "unix":
            return "does not answer: there is no such socket; check that it runs and that PUTER_REDIS_URL is right"
        case PermissionError() if to.scheme == "unix":
            return "does not answer: your user may not open its socket; ask its owner for access"
        case ConnectionRefusedError():
            return (
                "does not answer: nothing accepts connections there; check that it runs, and host and port in "
                "PUTER_REDIS_URL"
            )
        case ConnectionResetError() | BrokenPipeError():
            return _closed(to)
    return _closed(to) if str(error).startswith("Connection closed by server") else None  # redis-py has no class for it


def _closed(to: RedisUrl) -> str:
    if to.scheme == "unix":
        perhaps = ""
    elif to.has_tls:
        perhaps = f"; if it requires a certificate of its clients, {_CLIENT_CERTIFICATE}"
    else:
        perhaps = "; for a TLS port, write rediss" + to.scheme.removeprefix("redis") + "://"
    return f"closed the connection without an answer: see its log{perhaps}"
