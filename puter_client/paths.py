"""Puter's files and folders on this computer, and how they are protected from other users."""

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

# sockaddr_un holds 104 bytes on macOS and 108 on Linux, including the final NUL.
SOCKET_PATH_LIMIT_BYTES = 100
ELSEWHERE = "choose another folder with PUTER_HOME=…"
FOLDER_GONE = "the current folder was removed: change to another one, or give a full path"

# An existing folder that holds only these is taken as Puter's own, and may be closed to other users.
_OWN_NAMES = frozenset({"config.toml", "engine", "targets", "logs", "private_keys", "run"})


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Puter's files and folders; nothing is created by naming them.

    Attributes:
        config_file: the user's settings.
        state: folder of everything that Puter writes.
        logs: folder of the logs.
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
        """The folders for an environment.

        `PUTER_HOME` is one folder for everything; without it, the XDG base directory specification applies.

        Raises:
            InvalidInput: neither PUTER_HOME nor a home directory is known.
        """
        if home := environ.get("PUTER_HOME"):
            state = absolute(home, "PUTER_HOME")
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
        """Path of the engine's socket, at most 100 bytes."""
        return self.runtime / socket_name(self.state)

    def secure_state(self) -> None:
        """Create the state folder or close it to other users; called before anything is written into it.

        Raises:
            InvalidInput: the folder is open to other users and contains more than Puter's files.
            EngineError: the folder cannot be made safe; see `secure_folder`.
        """
        _refuse_borrowed_folder(self.state)
        secure_folder(self.state)

    def secure(self) -> None:
        """Create the engine's folders, or close them to other users.

        Raises:
            InvalidInput: the state folder is open to other users and contains more than Puter's files.
            EngineError: a folder cannot be made safe; see `secure_folder`.
        """
        self.secure_state()
        for folder in (self.engine, self.logs):
            secure_folder(folder)
        # Others can create folders in /tmp: one that is open there may contain files of theirs.
        secure_folder(self.runtime, tighten=self.runtime != _shared_runtime())


def socket_name(state: Path) -> str:
    """A socket name that is unique for each state folder, since several may share one runtime folder."""
    return f"engine-{hashlib.sha256(os.fsencode(state)).hexdigest()[:12]}.sock"


def secure_folder(path: Path, *, tighten: bool = True) -> None:
    """Ensure that a folder exists, belongs to the effective user, has mode 0700, and is not a symlink.

    Args:
        path: the folder; missing parents are created too.
        tighten: whether to close an own folder that is open to other users (else it is refused).

    Raises:
        EngineError: it is a symlink, not a folder, another user's, or open to others; or it cannot be created.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = _made(path)
        # Checked and changed by descriptor, so that nobody can replace the folder in between.
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise EngineError(_unusable(path, error)) from None
    try:
        found = os.fstat(folder)
        if found.st_uid != os.geteuid():
            raise EngineError(
                f"{_quoted(path)} belongs to user {found.st_uid}, not to you ({os.geteuid()}): "
                f"`chown` it if it is yours, or {ELSEWHERE}"
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            if not (tighten or made):
                raise EngineError(
                    f"{_quoted(path)} is open to other users (mode {stat.S_IMODE(found.st_mode):04o}): "
                    f"remove it if you do not know its contents, else `chmod 700` it, or {ELSEWHERE}"
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
        return f"{_quoted(path)} or its parent is not a folder: {ELSEWHERE}"
    return f"{_quoted(path)} cannot be used ({error.strerror}): {ELSEWHERE}"


def _refuse_borrowed_folder(state: Path) -> None:
    """Refuse a folder such as PUTER_HOME=~ or /usr, which must not be closed to other users."""
    try:
        mode = state.lstat().st_mode
        if not stat.S_ISDIR(mode) or not stat.S_IMODE(mode) & 0o077:
            return
        foreign = sorted({found.name for found in state.iterdir()} - _OWN_NAMES)
    except OSError:
        return  # secure_folder reports what is wrong with it
    if foreign:
        raise InvalidInput(
            f"{_quoted(state)} is open to other users and contains more than Puter's files ({shown(foreign[0])}): "
            f"{ELSEWHERE}, or `chmod 700` it"
        )


def absolute(written: str, named_by: str) -> Path:
    """A path from outside, made absolute; symlinks stay as they are. `named_by`: the option or setting that holds it.

    Raises:
        InvalidInput: it is relative to a folder that was removed, or to an unknown user's home directory.
    """
    try:
        return Path(os.path.abspath(Path(written).expanduser()))  # noqa: PTH100 - resolve() would hide a symlink
    except RuntimeError:
        problem = "there is no such user, whose home directory it names"
    except FileNotFoundError:
        problem = FOLDER_GONE
    raise InvalidInput(f"{named_by} {shown(written, 200)}: {problem}") from None


def in_removed_folder(path: Path) -> bool:
    """Whether a path is relative to a current folder that was removed."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return not path.is_absolute()
    return False


def _xdg(environ: Mapping[str, str], name: str, below_home: str) -> Path:
    # The specification says that relative paths are ignored.
    value = environ.get(name, "")
    return Path(value) if value.startswith("/") else _home(environ) / below_home


def _home(environ: Mapping[str, str]) -> Path:
    if home := environ.get("HOME"):
        return absolute(home, "HOME")
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        raise InvalidInput(f"user {os.geteuid()} has no home directory: {ELSEWHERE}") from None


def _session_runtime(environ: Mapping[str, str]) -> Path | None:
    """The login session's runtime folder, if it exists and is as private as the specification requires."""
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
    # Not TMPDIR, which may differ between sessions: their commands would not find the same socket.
    return Path(f"/tmp/puter-{os.geteuid()}")  # noqa: S108 - secure_folder refuses a folder that another user made


def _quoted(path: Path) -> str:
    return shown(path, limit=200)
