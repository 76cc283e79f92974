"""For which version of Redis the rules of a user are: an older one does not start with those of a newer one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from puter_client.acl.acl_file import users
from puter_client.acl.rules import SERVICES, Role
from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import shown

OLDEST, REDIS_7_2 = (7, 0), (7, 2)
_SERVERS = ("redis-server", "valkey-server")
# Where distributions and `make install` put them: not all of it is on the PATH of every user.
_USUAL_PLACES = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin")
_ANSWER_S = 20.0


class Installed(NamedTuple):
    """A server that is installed on this computer.

    Attributes:
        name: as people call it, with its version.
        version: of Redis whose commands it has.
    """

    name: str
    version: tuple[int, int]


def read_version(text: str) -> tuple[int, int]:
    """The version that `--redis-version` names.

    Raises:
        InvalidInput: it is none, or too old.
    """
    found = re.fullmatch(r"(\d{1,4})(?:\.(\d{1,4}))?(?:\.\d{1,4})?", text)
    if found is None or (found[2] is None and int(found[1]) == OLDEST[0]):
        raise InvalidInput(f"{shown(text)}: write it like 7.0 or 7.2", subject="--redis-version")
    return checked((int(found[1]), int(found[2] or 0)))


def checked(version: tuple[int, int]) -> tuple[int, int]:
    """The version itself.

    Raises:
        InvalidInput: it is too old.
    """
    if version < OLDEST:
        raise InvalidInput(f"Redis {version[0]}.{version[1]} is too old: Puter needs Redis 7.0 or newer, or Valkey")
    return version


def of_lines(lines: Sequence[str]) -> tuple[int, int] | None:
    """The version that the rules of other users are for; None if nothing can be told from them."""
    text = "\n".join(lines)
    if "+waitaof" in text or "+client|setinfo" in text:
        return REDIS_7_2
    return OLDEST if any(user.role in (*SERVICES, Role.CLIENT, Role.VIEWER) for user in users(lines)) else None


def installed() -> Installed | None:
    """The server that is installed on this computer; None if there is none.

    Raises:
        InvalidInput: it is too old, or there are several, which need different rules.
    """
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), *_USUAL_PLACES))
    found = [one for name in _SERVERS if (path := shutil.which(name, path=places)) and (one := _asked(path))]
    if len({one.version < REDIS_7_2 for one in found}) > 1:
        both = " and ".join(one.name for one in found)
        raise InvalidInput(f"{both} are installed, which need different rules: write --redis-version for one of them")
    if found:
        checked(found[0].version)
    return found[0] if found else None


def _asked(path: str) -> Installed | None:
    try:
        told = subprocess.run(  # noqa: S603 - found by its name
            [path, "--version"], capture_output=True, timeout=_ANSWER_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return read_answer(told.decode(errors="replace"))


def read_answer(text: str) -> Installed | None:
    """What a server says of itself (`--version`); None if it is not understood."""
    found = re.match(r"(Redis|Valkey) server v=((\d{1,4})\.(\d{1,4})[0-9A-Za-z.-]{0,20})\s", text)
    if found is None:
        return None
    version = (int(found[3]), int(found[4]))
    return Installed(f"{found[1]} {found[2]}", version if found[1] == "Redis" else max(version, REDIS_7_2))
