"""Settings: `config.toml` < environment < options, for every one of them."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import NAMESPACE, check_namespace, shown
from puter_client.paths import Paths
from puter_client.store.connection import check_url

# What a machine is requested with is the client's own to fill in, never a default's.
_NO_DEFAULT = frozenset({"private_key_path"})
_TOP = ("namespace", "redis_url", "defaults")
_MAPPINGS = ("env", "aws_tags")


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What `config.toml` says.

    Attributes:
        namespace: of every command, unless the environment or an option names another.
        redis_url: of a shared Redis; None is the local engine. May hold a password.
        defaults: fields of contract.fields.FIELDS as written; `public_key` is the path of a file, as the option is.
        open_to_others: whether a file with a password in it can be read by other users.
    """

    namespace: str | None = None
    redis_url: str | None = None
    defaults: Mapping[str, Any] = {}
    open_to_others: bool = False

    def __repr__(self) -> str:
        return f"Config(namespace={self.namespace!r}, defaults={sorted(self.defaults)!r})"


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a command runs with.

    Attributes:
        paths: this user's files.
        environ: the environment; the local engine's worker gets it as it is.
        namespace: whose machines are spoken of.
        named_by_option: whether an option named it, so that commands told to the user have to name it too.
        redis_url: of a shared Redis; None is the local engine.
        defaults: fields that hold where neither file nor option says otherwise.
    """

    paths: Paths
    environ: Mapping[str, str]
    namespace: str
    named_by_option: bool = False
    redis_url: str | None = None
    defaults: Mapping[str, Any] = {}

    def __repr__(self) -> str:
        return f"ClientSettings(namespace={self.namespace!r})"

    def command(self, text: str) -> str:
        """A command of Puter's as this user has to type it to mean the same namespace."""
        return f"puter {text}" + (f" -n {self.namespace}" if self.named_by_option else "")


def read_config(path: Path) -> Config:
    """The user's settings file; one that is not there says nothing.

    Raises:
        InvalidInput: it cannot be read, or with everything in it that cannot be used, as `file: key: problem`.
    """
    try:
        raw = path.read_bytes()
        mode = path.stat().st_mode
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {error.strerror}") from None
    import tomllib

    try:
        written = tomllib.loads(raw.decode())
    except UnicodeDecodeError:
        raise InvalidInput(f"{path}: is not UTF-8 text: save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path}: is no TOML: {shown(error, 120)}") from None
    problems = [f"{path}: {problem}" for problem in _problems(written)]
    if problems:
        raise InvalidInput(*problems)
    url = written.get("redis_url")
    exposed = bool(url and urlsplit(url).password and stat.S_IMODE(mode) & 0o044)
    return Config(
        namespace=written.get("namespace"),
        redis_url=url,
        defaults=written.get("defaults", {}),
        open_to_others=exposed,
    )


def _problems(written: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for key, value in written.items():
        if key not in _TOP:
            found.append(f"{shown(key)}: unknown; known are {', '.join(_TOP)}")
        elif key == "defaults" and not isinstance(value, dict):
            found.append("defaults: write a table, [defaults]")
        elif key == "defaults":
            found += [f"defaults.{problem}" for problem in _default_problems(value)]
        elif not isinstance(value, str):
            found.append(f"{key}: write a text, in quotes")
        else:
            try:
                (check_namespace if key == "namespace" else check_url)(value)
            except InvalidInput as error:
                text = str(error).removeprefix("namespace ").removeprefix("PUTER_REDIS_URL ")
                found.append(f"{key}: {text}")
    return found


def _default_problems(defaults: Mapping[str, Any]) -> list[str]:
    from puter_client.batch.levels import ssh_words
    from puter_client.contract.fields import FIELDS

    known = sorted(set(FIELDS) - _NO_DEFAULT)
    found: list[str] = []
    for name, value in defaults.items():
        if name not in known:
            found.append(f"{shown(name)}: unknown; known are {', '.join(known)}")
            continue
        try:
            if name == "ssh_from":
                ssh_words(value)
            elif name == "public_key":
                FIELDS["private_key_path"](value)  # a path too
            else:
                FIELDS[name](value)
        except ValueError as error:
            found.append(f"{name}: {error}")
    if "ttl" in defaults and defaults.get("no_shutdown") is True:
        found.append("no_shutdown: and ttl exclude each other: keep one")
    return found


def client_settings(
    environ: Mapping[str, str],
    *,
    namespace: str | None = None,
    config: Config | None = None,
    paths: Paths | None = None,
) -> ClientSettings:
    """The settings of this run.

    Args:
        environ: this process's environment.
        namespace: as an option names it.
        config: None reads the user's file.
        paths: None are those that the environment asks for.

    Raises:
        InvalidInput: a setting cannot be used.
    """
    paths = paths or Paths.from_environ(environ)
    config = config or read_config(paths.config_file)
    url = environ.get("PUTER_REDIS_URL") or config.redis_url
    if url is not None:
        check_url(url)
    return ClientSettings(
        paths=paths,
        environ=environ,
        namespace=_namespace(environ, namespace, config),
        named_by_option=namespace is not None,
        redis_url=url,
        defaults=config.defaults,
    )


def _namespace(environ: Mapping[str, str], option: str | None, config: Config) -> str:
    if option is not None:
        return check_namespace(option)
    if named := environ.get("PUTER_NAMESPACE"):
        return check_namespace(named)
    by_environ, by_config = environ.get("PUTER_REDIS_URL"), config.redis_url
    if by_environ and (user := redis_user(by_environ)) and NAMESPACE.fullmatch(user):
        return user
    if config.namespace is not None:
        return check_namespace(config.namespace)
    if not by_environ and by_config and (user := redis_user(by_config)) and NAMESPACE.fullmatch(user):
        return user
    return namespace_of_login(login_name(environ))


def redis_user(url: str) -> str | None:
    """The user that a URL names; None for Redis's `default`, which is everybody."""
    parts = urlsplit(url)
    user = unquote(parts.username or "") if parts.scheme != "unix" else ""
    return user if user not in ("", "default") else None


def login_name(environ: Mapping[str, str]) -> str:
    """Who is asking: the login name, else the user's id."""
    for name in ("LOGNAME", "USER"):
        if value := environ.get(name):
            return value
    import os
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid-{os.geteuid()}"


def namespace_of_login(login: str) -> str:
    """A login name reduced to the alphabet of namespaces.

    Raises:
        InvalidInput: nothing of it is left.
    """
    reduced = re.sub(r"[^a-z0-9-]+", "-", login.lower()).strip("-")[:39]
    if not reduced:
        raise InvalidInput(
            f"login name {shown(login)} makes no namespace: name one with --namespace or PUTER_NAMESPACE"
        )
    return reduced


def laid_over(weaker: Mapping[str, Any], stronger: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that hold where both are written: `env` and `aws_tags` name by name, the rest whole.

    `ttl` and `no_shutdown` answer one question, as do `os` and `ami`: who answers it anew sets the weaker answer aside.
    """
    merged = dict(weaker)
    if "ttl" in stronger:
        merged.pop("no_shutdown", None)
    if stronger.get("no_shutdown") in (True, "true"):
        merged.pop("ttl", None)
    if "os" in stronger:
        merged.pop("ami", None)
    for name, value in stronger.items():
        merged[name] = {**weaker[name], **value} if name in _MAPPINGS and name in weaker else value
    return merged
