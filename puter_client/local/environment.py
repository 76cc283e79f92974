"""What a worker and the programs that it runs read of their environment; if it changes, another worker must serve.

Most of an environment differs between two shells without meaning anything to AWS. If all of it counted, commands of two
terminals would replace each other's worker again and again. So named variables count: those that botocore, aiohttp and
Puter's worker read. A `credential_process` is another's program, which may read any. Where the AWS config has one,
everything counts but what a shell, a terminal or a session sets by itself.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

_AWS = "AWS_"
# botocore reads BOTO_CONFIG and switches that begin with BOTO_ or BOTOCORE_.
_READ_PREFIXES = ("BOTO",)
_READ = frozenset(
    {
        # Where `~/.aws` is.
        "HOME",
        # urllib.request.getproxies, through botocore.utils.get_environ_proxies; also in lower case.
        "ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY",
        # botocore.endpoint; OpenSSL.
        "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE",
        # puter_worker.settings
        "PUTER_DRAIN_S", "PUTER_IDLE_EXIT_S", "PUTER_MAX_GROUP", "PUTER_MAX_JOBS", "PUTER_PACE", "PUTER_QUARANTINE_S",
        "PUTER_QUIET_SWEEP_S",
    }
)  # fmt: skip
# Set by shells, terminals, editors and login sessions, for themselves.
_OWN_PREFIXES = (
    "ALACRITTY_", "BASH_", "COMP_", "CONDA_", "DESKTOP_", "DIRENV_", "GHOSTTY_", "GNOME_", "GPG_", "HIST", "ITERM_",
    "KDE_", "KITTY_", "KONSOLE_", "LC_", "LESS", "PROMPT", "PUTER_", "SSH_", "STARSHIP_", "TERM", "TMUX", "VIRTUAL_ENV",
    "VSCODE_", "VTE_", "WEZTERM_", "WT_", "XDG_CURRENT_", "XDG_MENU_", "XDG_RUNTIME_", "XDG_SEAT", "XDG_SESSION_",
    "XDG_VTNR", "XPC_", "ZELLIJ", "ZSH", "__CF",
)  # fmt: skip
_OWN = frozenset(
    {
        "_", "CLICOLOR", "COLORFGBG", "COLORTERM", "COLUMNS", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "EDITOR",
        "FORCE_COLOR", "INVOCATION_ID", "JOURNAL_STREAM", "LANG", "LANGUAGE", "LINES", "LSCOLORS", "LS_COLORS", "MAIL",
        "MAILCHECK", "MANPAGER", "MANPATH", "NO_COLOR", "OLDPWD", "PAGER", "PS1", "PS2", "PWD", "SECURITYSESSIONID",
        "SESSION_MANAGER", "SHELL", "SHLVL", "STY", "VISUAL", "WAYLAND_DISPLAY", "WINDOW", "WINDOWID", "WINDOWPATH",
        "XAUTHORITY",
    }
)  # fmt: skip


def aws_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """The `AWS_*` variables of an environment that are not empty."""
    return {name: value for name, value in environ.items() if value and name.startswith(_AWS)}


def other_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """The other variables that a worker's work depends on."""
    runs_programs = has_credential_process(environ)
    return {
        name: value
        for name, value in environ.items()
        if value and not name.startswith(_AWS) and (_is_read(name) or (runs_programs and not _is_own(name)))
    }


def _is_read(name: str) -> bool:
    known = name.upper() if name.lower().endswith("_proxy") else name
    return known in _READ or name.startswith(_READ_PREFIXES)


def _is_own(name: str) -> bool:
    return name in _OWN or name.startswith(_OWN_PREFIXES)


def has_credential_process(environ: Mapping[str, str]) -> bool:
    """Whether a profile of the AWS config names a program that gives credentials. The files are not parsed."""
    home = environ.get("HOME") or str(Path("~").expanduser())
    named = (
        environ.get("AWS_CONFIG_FILE") or "~/.aws/config",
        environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials",
    )
    for path in (Path(home + text[1:] if text.startswith("~/") else text) for text in named):
        with suppress(OSError):  # the worker cannot read it either
            if path.is_file() and b"credential_process" in path.read_bytes():
                return True
    return False


def digest(settings: Mapping[str, str], salt: str) -> str:
    """A digest that is equal for equal settings and does not reveal their values.

    It is keyed with a new salt at each start (BLAKE2, RFC 7693), so digests of different starts cannot be compared.
    """
    keyed = hashlib.blake2b(key=bytes.fromhex(salt), digest_size=32)
    keyed.update(msgspec.json.encode(sorted((os.fsencode(n), os.fsencode(v)) for n, v in settings.items())))
    return keyed.hexdigest()
