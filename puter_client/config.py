"""Settings: `config.toml` < environment < options, for every one of them."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import NAMESPACE, check_namespace, shown
from puter_client.paths import Paths
from puter_client.store.redis_connection import check_url
from puter_client.store.redis_url import URL_VARIABLE, RedisUrl

_TOP = ("namespace", "redis_url", "defaults")


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `config.toml`.

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
    """The settings of one command.

    Attributes:
        paths: this user's files.
        environ: the environment; the local engine's worker gets it as it is.
        namespace: whose machines are meant.
        named_by_option: whether an option named it, so that commands shown to the user have to name it too.
        redis_url: of a shared Redis; None is the local engine.
        redis_url_from: the setting that holds it, for errors.
        defaults: fields of config.toml, weaker than those of a batch file and of options.
    """

    paths: Paths
    environ: Mapping[str, str]
    namespace: str
    named_by_option: bool = False
    redis_url: str | None = None
    redis_url_from: str = URL_VARIABLE
    defaults: Mapping[str, Any] = {}

    def __repr__(self) -> str:
        return f"ClientSettings(namespace={self.namespace!r})"

    def default(self, field: str) -> str:
        """How messages name a field of config.toml's [defaults]."""
        return f"{self.paths.config_file}: defaults.{field}"

    def command(self, text: str) -> str:
        """A command of Puter's as this user has to type it to mean the same namespace."""
        return f"puter {text}" + (f" -n {self.namespace}" if self.named_by_option else "")


def read_config(path: Path) -> Config:
    """The user's settings file; a missing file is an empty one.

    Raises:
        InvalidInput: it cannot be read, or with every problem in it, as `file: key: problem`.
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
        written = tomllib.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InvalidInput(f"{path}: is not valid UTF-8: save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path}: is not valid TOML: {shown(error, 120)}") from None
    problems = [f"{path}: {problem}" for problem in _problems(written)]
    if problems:
        raise InvalidInput(*problems)
    url = written.get("redis_url")
    exposed = bool(url and RedisUrl.parse(url).holds_a_password and stat.S_IMODE(mode) & 0o044)
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
            found.append(f"{shown(key)}: unknown setting; known are {', '.join(_TOP)}")
        elif key == "defaults" and not isinstance(value, dict):
            found.append("defaults: write a table, [defaults]")
        elif key == "defaults":
            found += _default_problems(value)
        elif not isinstance(value, str):
            found.append(f"{key}: write a text, in quotes")
        else:
            try:
                (check_namespace if key == "namespace" else check_url)(value)
            except InvalidInput as error:
                found.append(f"{key}: {error.message}")
    return found


def _default_problems(defaults: Mapping[str, Any]) -> tuple[str, ...]:
    from puter_client.batch.levels import LevelReader
    from puter_client.batch.problems import Problems
    from puter_client.batch.source import STDIN, beside

    problems = Problems("config.toml")
    LevelReader(problems, beside(STDIN)).config(defaults, label="defaults.")
    return problems.error().problems if problems else ()


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
    url, named_by = redis_url(environ, config, paths)
    if url is not None:
        check_url(url, named_by=named_by)
    return ClientSettings(
        paths=paths,
        environ=environ,
        namespace=_namespace(environ, namespace, config),
        named_by_option=namespace is not None,
        redis_url=url,
        redis_url_from=named_by,
        defaults=config.defaults,
    )


def redis_url(environ: Mapping[str, str], config: Config, paths: Paths) -> tuple[str | None, str]:
    """The URL of a shared Redis, and the setting that holds it; None is the local engine."""
    if url := environ.get(URL_VARIABLE):
        return url, URL_VARIABLE
    return config.redis_url, f"redis_url in {paths.config_file}"


def _namespace(environ: Mapping[str, str], option: str | None, config: Config) -> str:
    if option is not None:
        return check_namespace(option, named_by="--namespace")
    if named := environ.get("PUTER_NAMESPACE"):
        return check_namespace(named, named_by="PUTER_NAMESPACE")
    by_environ, by_config = environ.get(URL_VARIABLE), config.redis_url
    if by_environ and (user := redis_user(by_environ)) and NAMESPACE.fullmatch(user):
        return user
    if config.namespace is not None:
        return check_namespace(config.namespace)
    if not by_environ and by_config and (user := redis_user(by_config)) and NAMESPACE.fullmatch(user):
        return user
    return namespace_of_login(login_name(environ))


def redis_user(url: str) -> str | None:
    """The user that a URL names; see RedisUrl.named_user."""
    return RedisUrl.parse(url).named_user


def login_name(environ: Mapping[str, str]) -> str:
    """The login name of the user, else the user's id."""
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
        InvalidInput: no character of it is left.
    """
    reduced = re.sub(r"[^a-z0-9-]+", "-", login.lower()).strip("-")[:39]
    if not reduced:
        raise InvalidInput(
            f"login name {shown(login)} cannot be made a namespace: choose one with --namespace or PUTER_NAMESPACE"
        )
    return reduced
