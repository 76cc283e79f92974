"""What a Redis URL says: the one place that reads it, for clients and workers.

Nothing of a URL is shown but its host (or socket), port and database, because a character that is not percent-encoded
makes a part of the password look like another part. Where a URL cannot be read, nothing of it is shown at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast
from urllib.parse import SplitResult, quote, unquote, urlsplit

from puter_client.contract.errors import InvalidInput

URL_VARIABLE = "PUTER_REDIS_URL"
DEFAULT_PORT = 6379
SENTINEL_PORT = 26379
# Redis keeps the number of a database in an int.
_MOST_DATABASE = 2**31 - 1
# A socket's path fills at most `sun_path` of sockaddr_un, which has 108 bytes on Linux, with the final NUL.
_LONGEST_SOCKET_BYTES = 107
# A worker waits up to 2 s for its launches to be on disk (WAITAOF), so its commands must be allowed to take longer.
_LEAST_TIMEOUT_S, _MOST_TIMEOUT_S = 3.0, 300.0

# The names that Sentinel's own configuration file allows (sentinel.conf, `sentinel monitor`).
_SERVICE = re.compile(r"[A-Za-z0-9._-]{1,128}")

_FORMS = "write redis://host:6379/0, rediss://…, unix:///path or redis+sentinel://host1,host2/service/0"
_SENTINEL_FORM = "write redis+sentinel://host1:26379,host2:26379/service/0"
ENCODE = "in a user or password, write / @ : # ? % [ ] as %2F %40 %3A %23 %3F %25 %5B %5D"

Scheme = Literal["redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"]
SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")


@dataclass(frozen=True, kw_only=True)
class RedisUrl:
    """A Redis, and how to connect to it.

    Attributes:
        scheme: `redis` (TCP), `rediss` (TLS), `unix` (a socket on this computer), or one of the first two with
            `+sentinel`: Sentinels say where the Redis is.
        host: a name or address; empty for a socket.
        port: of the host.
        socket: path of the socket; empty for a host.
        sentinels: hosts and ports of Sentinels, sorted; () without them.
        service: what the Sentinels call this Redis.
        database: its number.
        user: name of the Redis user; empty is Redis's `default`.
        password: empty if there is none.
        sentinel_user: of the Sentinels themselves; empty is `default`.
        sentinel_password: empty if they ask for none.
        options: further arguments of redis-py's connection, from the query.
    """

    scheme: Scheme
    host: str = ""
    port: int = DEFAULT_PORT
    socket: str = ""
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    database: int = 0
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    sentinel_user: str = field(default="", repr=False)
    sentinel_password: str = field(default="", repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        """What may be shown of it."""
        if self.scheme == "unix":
            path = "".join(c if c.isprintable() else quote(c) for c in self.socket)
            return f"unix://{path}" + (f"?db={self.database}" if self.database else "")
        if self.sentinels:
            hosts = ",".join(_shown(host, port) for host, port in self.sentinels)
            return f"{self.scheme}://{hosts}/{self.service}/{self.database}"
        return f"{self.scheme}://{_shown(self.host, self.port)}/{self.database}"

    @property
    def holds_a_password(self) -> bool:
        """Whether nobody else should read the URL."""
        return bool(self.password or self.sentinel_password)

    @property
    def has_tls(self) -> bool:
        """Whether connections use TLS."""
        return self.scheme in ("rediss", "rediss+sentinel")

    @property
    def named_user(self) -> str | None:
        """The user who is to be known by this name; None for Redis's `default`, which is everybody.

        A name without a password does not count: who writes `redis://password@host` must not find the password in every
        key and message.
        """
        return self.user if self.password and self.user not in ("", "default") else None

    @classmethod
    def parse(cls, url: str) -> RedisUrl:
        """What the URL says; each form that redis-py knows, but nothing that it would pass over in silence.

        Raises:
            InvalidInput: it cannot be used; the text says what is wrong, and holds nothing of the URL.
        """
        if not url.isprintable() or " " in url:
            raise _refused("contains a blank or a character that cannot be printed: percent-encode it (a blank is %20)")
        if "#" in url:
            raise _refused(f"contains a #: {ENCODE}")
        if url.partition("://")[0].lower() in SENTINEL_SCHEMES:
            return cls(**_of_sentinels(url))
        parts, port = _split(url)
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise _refused(f"is not a Redis URL: {_FORMS}")
        scheme = cast("Scheme", parts.scheme)
        options = _options(parts.query, scheme)
        database = options.pop("db", None)
        where = _socket(parts) if scheme == "unix" else _host(parts, port, database)
        if database is not None:
            where["database"] = database
        return cls(
            scheme=scheme,
            user=_decoded(parts.username or "", "user"),
            password=_decoded(parts.password or "", "password"),
            options=options,
            **where,
        )


def _split(url: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(url)
        return parts, parts.port if parts.scheme != "unix" else None
    except ValueError:  # its text quotes the URL
        raise _refused(
            "names a host or port that cannot be read: write redis://host:6379/0, an IPv6 address in brackets as "
            f"in redis://[::1]:6379/0, a port from 1 to 65535; {ENCODE}"
        ) from None


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refused(problem: str) -> InvalidInput:
    return InvalidInput(problem, subject=URL_VARIABLE)


def _decoded(text: str, what: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _refused(f"has percent-encoded bytes in its {what} that are not UTF-8: encode it as UTF-8") from None


def _of_sentinels(url: str) -> dict[str, Any]:
    """What a `redis+sentinel://` or `rediss+sentinel://` URL says; urllib knows no list of hosts."""
    before, _, query = url.partition("?")
    name, _, rest = before.partition("://")
    scheme = cast("Scheme", name.lower())
    options = _options(query, scheme)
    netloc, _, path = rest.partition("/")
    credentials, _, hosts = netloc.rpartition("@")
    service, _, number = path.partition("/")
    # A raw / of a password would end here, too: what follows it has an @, and is no name of a service.
    if not _SERVICE.fullmatch(service) or (number and not _is_database(number)):
        raise _refused(f"names no service of its Sentinels, or no database: {_SENTINEL_FORM}; {ENCODE}")
    database = options.pop("db", None)
    if number and database not in (None, int(number)):
        raise _refused("names two databases, one by its path and one by db=: name one")
    found = set[tuple[str, int]]()
    for one in hosts.split(","):
        parts, port = _split(f"redis://{one}")
        where = _host(parts, port, None)
        found.add((where["host"], port or SENTINEL_PORT))
    user, _, password = credentials.partition(":")
    return {
        "scheme": scheme,
        "sentinels": tuple(sorted(found)),
        "service": service,
        "database": int(number or 0) if database is None else database,
        "user": _decoded(user, "user"),
        "password": _decoded(password, "password"),
        "sentinel_user": options.pop("sentinel_user", ""),
        "sentinel_password": options.pop("sentinel_password", ""),
        "options": options,
    }


def _host(parts: SplitResult, port: int | None, database: int | None) -> dict[str, Any]:
    """Host, port and database of a `redis://` or `rediss://` URL."""
    host = _decoded(parts.hostname or "", "host")
    if not host:
        raise _refused(f"names no host: write {parts.scheme}://host:6379/0; {ENCODE}")
    if port == 0 or not (_is_ipv6(host) if ":" in host else _is_name(host)):
        raise _refused(f"names a host or port that cannot be: write {parts.scheme}://host:6379/0; {ENCODE}")
    number = parts.path.removeprefix("/")
    if number and not _is_database(number):
        raise _refused(f"has a path that is not the number of a database: write {parts.scheme}://host:6379/0; {ENCODE}")
    if number and database not in (None, int(number)):
        raise _refused("names two databases, one by its path and one by db=: name one")
    return {"host": host, "port": port or DEFAULT_PORT, "database": int(number or 0)}


def _socket(parts: SplitResult) -> dict[str, Any]:
    """The path of a `unix://` URL."""
    # A raw @ or : in the path is likelier to be a password's than a file's.
    if parts.netloc.rpartition("@")[2] or not parts.path.startswith("/") or set("@:") & set(parts.path):
        raise _refused(
            "names no socket: write unix:///path or unix://user:password@/path, with @ and : in the path as %40 and "
            f"%3A; {ENCODE}"
        )
    path = _decoded(parts.path, "path")
    if "\0" in path or len(path.encode()) > _LONGEST_SOCKET_BYTES:
        raise _refused(
            f"names a socket that cannot be: a path has at most {_LONGEST_SOCKET_BYTES} bytes, none of them 0"
        )
    return {"socket": path}


def _is_name(host: str) -> bool:
    """Whether the look-up of this name can be tried at all."""
    try:
        host.encode("idna")
    except UnicodeError:  # an empty label, or one of more than 63 characters
        return False
    return all(c.isalnum() or c in "-._" for c in host)


def _is_ipv6(host: str) -> bool:
    from ipaddress import IPv6Address

    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True


def _is_database(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _MOST_DATABASE


# -- the query --------------------------------------------------------------------------------------------------------


def _database(text: str) -> int:
    if not _is_database(text):
        raise ValueError("the number of a database, such as 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _LEAST_TIMEOUT_S <= seconds <= _MOST_TIMEOUT_S:
        raise ValueError(f"seconds from {_LEAST_TIMEOUT_S:.0f} to {_MOST_TIMEOUT_S:.0f}")
    return seconds


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "yes", "1", "false", "no", "0"):
        raise ValueError("true or false")
    return text.lower() in ("true", "yes", "1")


def _requirement(text: str) -> str:
    if text not in ("required", "optional", "none"):
        raise ValueError("required, optional or none")
    return text


def _file(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("the path of a PEM file")
    return text


def _words(text: str) -> str:
    if not text:
        raise ValueError("it, or leave the option out")
    return text


# What redis-py knows beyond these would break the program (decode_responses, protocol), is set by Puter
# (max_connections, retry_on_timeout), or puts a secret where it is easily shown (password).
OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "db": _database,
    "socket_timeout": _seconds,
    "socket_connect_timeout": _seconds,
    "socket_keepalive": _truth,
    "ssl_ca_certs": _file,
    "ssl_certfile": _file,
    "ssl_keyfile": _file,
    "ssl_cert_reqs": _requirement,
    "ssl_check_hostname": _truth,
    "sentinel_user": _words,
    "sentinel_password": _words,
}


def _options(query: str, scheme: Scheme) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in query.split("&") if query else []:
        name, _, text = part.partition("=")
        if name not in OPTIONS:  # the name may be a part of a password
            raise _refused(f"has an option after its ? that Puter does not take; it takes {', '.join(OPTIONS)}")
        if name in found:
            raise _refused(f"has the option {name} twice: write it once")
        if name.startswith("ssl_") and not scheme.startswith("rediss"):
            raise _refused(f"has the option {name}, which is for TLS: write rediss:// or remove it")
        if name.startswith("sentinel_") and scheme not in SENTINEL_SCHEMES:
            raise _refused(f"has the option {name}, which is for Sentinels: write redis+sentinel:// or remove it")
        if name == "socket_keepalive" and scheme == "unix":
            raise _refused(f"has the option {name}, which is not for a socket on this computer: remove it")
        try:
            found[name] = OPTIONS[name](_decoded(text, name))
        except ValueError as error:
            raise _refused(f"has an option {name} with a value that cannot be used: write {error}") from None
    if ("ssl_certfile" in found) != ("ssl_keyfile" in found):
        raise _refused("needs ssl_certfile and ssl_keyfile together; both may name one file")
    if "sentinel_user" in found and "sentinel_password" not in found:
        raise _refused("needs sentinel_password beside sentinel_user")
    return found
