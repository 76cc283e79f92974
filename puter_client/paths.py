"""Where Puter keeps things on this host, and that nobody else can reach them."""

from __future__ import annotations

import errno
import hashlib
import os
import pwd
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from puter_client.contract.errors import EngineError, InvalidInput
from puter_client.contract.key import shown

# sockaddr_un holds 104 bytes on macOS and 108 on Linux, the closing NUL among them.
SOCKET_PATH_LIMIT_BYTES = 100
ELSEWHERE = "choose a folder of your own with PUTER_HOME=…"

# What an existing folder may hold and still be taken as Puter's own, to be closed to others.
_OWN_NAMES = frozenset({"config.toml", "engine", "targets", "logs", "private_keys", "run"})


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Puter's files and folders; naming them makes none of them.

    Attributes:
        config_file: the user's settings.
        state: folder of all that Puter itself writes.
        logs: folder of the engine's logs.
        private_keys: folder of the ssh keys that Puter made.
        engine: folder of the local engine's locks and data.
        runtime: folder of the engine's socket.
    """

    config_file: Path
    state: Path
    logs: Path
    private_keys: Path
    engine: Path
    runtime: Path

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Paths:
        """The folders that an environment asks for.

        `PUTER_HOME` is one folder for all; without it those of the XDG base directory specification serve.

        Raises:
            InvalidInput: neither PUTER_HOME nor a home directory is known.
        """
        if home := environ.get("PUTER_HOME"):
            state = _absolute(home)
            config, runtime = state, state / "run"
        else:
            config = _xdg(environ, "XDG_CONFIG_HOME", ".config") / "puter"
            state = _xdg(environ, "XDG_STATE_HOME", ".local/state") / "puter"
            runtime = _session_runtime(environ) or _shared_runtime()
        if len(os.fsencode(runtime / socket_name(state))) > SOCKET_PATH_LIMIT_BYTES:
            runtime = _shared_runtime()
        return cls(
            config_file=config / "config.toml",
            state=state,
            logs=state / "logs",
            private_keys=state / "private_keys",
            engine=state / "engine",
            runtime=runtime,
        )

    @property
    def socket(self) -> Path:
        """The engine's socket; its path has at most 100 bytes."""
        return self.runtime / socket_name(self.state)

    def secure_state(self) -> None:
        """Makes the folder of all that Puter writes, or closes it to others; before anything is written below it.

        Raises:
            InvalidInput: it is open to others and holds more than Puter's files.
            EngineError: it cannot be made safe; see `secure_folder`.
        """
        _refuse_borrowed_folder(self.state)
        secure_folder(self.state)

    def secure(self) -> None:
        """Makes the engine's folders, or closes them to others.

        Raises:
            InvalidInput: the state folder is open to others and holds more than Puter's files.
            EngineError: a folder cannot be made safe; see `secure_folder`.
        """
        self.secure_state()
        for folder in (self.engine, self.logs):
            secure_folder(folder)
        # Others can make folders in /tmp: what is open there may have been theirs to fill.
        secure_folder(self.runtime, tighten=self.runtime != _shared_runtime())


def socket_name(state: Path) -> str:
    """A name that engines of different state folders never share, though their runtime folder is the same."""
    return f"engine-{hashlib.sha256(os.fsencode(state)).hexdigest()[:12]}.sock"


def secure_folder(path: Path, *, tighten: bool = True) -> None:
    """Sees to it that a folder exists, is the effective user's own, 0700 and no symlink.

    Args:
        path: the folder; parents that are missing are made too.
        tighten: whether an own folder that is open to others is closed (else it is refused).

    Raises:
        EngineError: it is a symlink, no folder, another user's, or open to others; or it cannot be made.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = _made(path)
        # Checked and changed by descriptor, so that nobody can put another folder there in between.
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise EngineError(_unusable(path, error)) from None
    try:
        found = os.fstat(folder)
        if found.st_uid != os.geteuid():
            raise EngineError(
                f"{_quoted(path)} belongs to user {found.st_uid}, not to you ({os.geteuid()}): "
                f"`chown` it to yourself if it is yours, or {ELSEWHERE}"
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            if not (tighten or made):
                raise EngineError(
                    f"{_quoted(path)} is open to other users (mode {stat.S_IMODE(found.st_mode):04o}): "
                    f"remove it if you do not know what it holds, else `chmod 700` it, or {ELSEWHERE}"
                )
            os.fchmod(folder, 0o700)
        elif stat.S_IMODE(found.st_mode) & 0o700 != 0o700:
            os.fchmod(folder, 0o700)
    except OSError as error:
        raise EngineError(_unusable(path, error)) from None
    finally:
        os.close(folder)


def _made(path: Path) -> bool:
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return False
    return True


def _unusable(path: Path, error: OSError) -> str:
    if path.is_symlink():
        return f"{_quoted(path)} is a symlink: name the folder itself, or {ELSEWHERE}"
    if error.errno in {errno.ENOTDIR, errno.EEXIST}:
        return f"{_quoted(path)} is no folder, or lies in none: {ELSEWHERE}"
    return f"{_quoted(path)} cannot be used ({error.strerror}): {ELSEWHERE}"


def _refuse_borrowed_folder(state: Path) -> None:
    """Somebody who sets PUTER_HOME=~ or /usr shall not find that folder closed to everybody else."""
    try:
        mode = state.lstat().st_mode
        if not stat.S_ISDIR(mode) or not stat.S_IMODE(mode) & 0o077:
            return
        foreign = sorted({found.name for found in state.iterdir()} - _OWN_NAMES)
    except OSError:
        return  # secure_folder tells what is wrong with it
    if foreign:
        raise InvalidInput(
            f"{_quoted(state)} is open to other users and holds more than Puter's files ({shown(foreign[0])}): "
            f"{ELSEWHERE}, or `chmod 700` it"
        )


def _absolute(text: str) -> Path:
    return Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100 - resolve() would hide a symlink


def _xdg(environ: Mapping[str, str], name: str, below_home: str) -> Path:
    # The specification has relative paths ignored.
    value = environ.get(name, "")
    return Path(value) if value.startswith("/") else _home(environ) / below_home


def _home(environ: Mapping[str, str]) -> Path:
    if home := environ.get("HOME"):
        return _absolute(home)
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        raise InvalidInput(f"user {os.geteuid()} has no home directory: {ELSEWHERE}") from None


def _session_runtime(environ: Mapping[str, str]) -> Path | None:
    """The login session's own folder, if there is one and it is as private as its specification wants."""
    value = environ.get("XDG_RUNTIME_DIR", "")
    if not value.startswith("/"):
        return None
    try:
        found = os.lstat(value)
    except OSError:
        return None
    private = stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o077
    return Path(value) / "puter" if private and found.st_uid == os.geteuid() else None


def _shared_runtime() -> Path:
    # Not the TMPDIR of one session: another one's command would not find the socket.
    return Path(f"/tmp/puter-{os.geteuid()}")  # noqa: S108 - secure_folder refuses what others made there


def _quoted(path: Path) -> str:
    return shown(path, limit=200)
