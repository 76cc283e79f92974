"""Where Puter keeps things, and which folders it refuses."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from puter_client.contract.errors import EngineError, InvalidInput
from puter_client.paths import SOCKET_PATH_LIMIT_BYTES, Paths, secure_folder

SHARED = Path(f"/tmp/puter-{os.geteuid()}")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives folders away, which root alone may")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder with a short path, wherever the tests run: the length of sockets' paths is what some are about."""
    with TemporaryDirectory(prefix="p-") as folder:
        yield Path(folder)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


class TestNames:
    def test_puter_home_is_one_folder_for_all(self) -> None:
        paths = Paths.from_environ({"PUTER_HOME": "/srv/p", "HOME": "/home/me", "XDG_STATE_HOME": "/else"})
        assert paths == Paths(
            config_file=Path("/srv/p/config.toml"),
            state=Path("/srv/p"),
            logs=Path("/srv/p/logs"),
            private_keys=Path("/srv/p/private_keys"),
            engine=Path("/srv/p/engine"),
            runtime=Path("/srv/p/run"),
        )

    def test_without_it_the_folders_of_xdg_serve(self) -> None:
        paths = Paths.from_environ({"HOME": "/home/me"})
        assert paths.config_file == Path("/home/me/.config/puter/config.toml")
        assert paths.state == Path("/home/me/.local/state/puter")
        assert paths.private_keys == Path("/home/me/.local/state/puter/private_keys")

    def test_those_of_xdg_can_be_moved(self) -> None:
        paths = Paths.from_environ({"HOME": "/home/me", "XDG_CONFIG_HOME": "/c", "XDG_STATE_HOME": "/s"})
        assert (paths.config_file, paths.state) == (Path("/c/puter/config.toml"), Path("/s/puter"))

    @pytest.mark.parametrize("value", ["", "relative", "./x"])
    def test_a_relative_folder_of_xdg_is_ignored(self, value: str) -> None:
        assert Paths.from_environ({"HOME": "/h", "XDG_STATE_HOME": value}).state == Path("/h/.local/state/puter")

    def test_an_empty_puter_home_is_none(self) -> None:
        assert Paths.from_environ({"HOME": "/h", "PUTER_HOME": ""}).state == Path("/h/.local/state/puter")

    def test_a_relative_puter_home_is_below_the_current_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir("/usr")
        assert Paths.from_environ({"PUTER_HOME": "p"}).state == Path("/usr/p")

    def test_naming_folders_makes_none(self, tmp_path: Path) -> None:
        Paths.from_environ({"PUTER_HOME": str(tmp_path / "home")})
        assert list(tmp_path.iterdir()) == []


class TestSocket:
    def test_it_is_in_the_sessions_own_folder(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o700)
        paths = Paths.from_environ({"HOME": "/h", "XDG_RUNTIME_DIR": str(tmp_path)})
        assert paths.runtime == tmp_path / "puter"

    @pytest.mark.parametrize("runtime", ["", "relative", "/nowhere/at/all"])
    def test_without_a_session_it_is_in_a_folder_of_the_user_in_tmp(self, runtime: str) -> None:
        assert Paths.from_environ({"HOME": "/h", "XDG_RUNTIME_DIR": runtime}).runtime == SHARED

    def test_a_sessions_folder_that_is_open_to_others_is_not_taken(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)
        assert Paths.from_environ({"HOME": "/h", "XDG_RUNTIME_DIR": str(tmp_path)}).runtime == SHARED

    @needs_root
    def test_a_sessions_folder_of_another_user_is_not_taken(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o700)
        os.chown(tmp_path, 65_534, 65_534)
        assert Paths.from_environ({"HOME": "/h", "XDG_RUNTIME_DIR": str(tmp_path)}).runtime == SHARED

    @pytest.mark.parametrize("length", range(60, 121, 5))
    def test_its_path_fits_whatever_the_homes_length(self, length: int) -> None:
        paths = Paths.from_environ({"PUTER_HOME": "/" + "x" * length})
        assert len(os.fsencode(paths.socket)) <= SOCKET_PATH_LIMIT_BYTES

    def test_its_length_is_counted_in_bytes(self) -> None:
        assert Paths.from_environ({"PUTER_HOME": "/" + "ü" * 40}).runtime == SHARED

    def test_two_homes_with_one_runtime_folder_have_two(self) -> None:
        one, other = (Paths.from_environ({"HOME": home}) for home in ("/home/a", "/home/b"))
        assert one.runtime == other.runtime
        assert one.socket != other.socket


class TestSecureFolder:
    def test_one_that_is_missing_is_made_for_its_owner_alone(self, tmp_path: Path) -> None:
        secure_folder(tmp_path / "a" / "b")
        assert (mode(tmp_path / "a"), mode(tmp_path / "a" / "b")) == (0o700, 0o700)

    @pytest.mark.parametrize("umask", [0o000, 0o777])
    def test_the_umask_has_no_say(self, tmp_path: Path, umask: int) -> None:
        before = os.umask(umask)
        try:
            secure_folder(tmp_path / "a")
        finally:
            os.umask(before)
        assert mode(tmp_path / "a") == 0o700

    @pytest.mark.parametrize("found", [0o755, 0o770, 0o777, 0o701, 0o500])
    def test_an_own_one_is_closed_to_others(self, tmp_path: Path, found: int) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a").chmod(found)
        secure_folder(tmp_path / "a")
        assert mode(tmp_path / "a") == 0o700

    @pytest.mark.parametrize("found", [0o755, 0o770, 0o1777, 0o701])
    def test_where_others_could_make_it_an_open_one_is_refused(self, tmp_path: Path, found: int) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a").chmod(found)
        with pytest.raises(EngineError, match=rf"mode {found:04o}.*chmod 700.*PUTER_HOME"):
            secure_folder(tmp_path / "a", tighten=False)
        assert mode(tmp_path / "a") == found

    def test_a_symlink_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir(mode=0o700)
        (tmp_path / "a").symlink_to(tmp_path / "real")
        with pytest.raises(EngineError, match=r"/a' is a symlink.*PUTER_HOME"):
            secure_folder(tmp_path / "a")

    def test_a_symlink_into_nowhere_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to(tmp_path / "nowhere")
        with pytest.raises(EngineError, match="is a symlink"):
            secure_folder(tmp_path / "a")
        assert not (tmp_path / "nowhere").exists()

    @needs_root
    def test_another_users_is_refused_with_the_remedy(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir(mode=0o700)
        os.chown(tmp_path / "a", 65_534, 65_534)
        with pytest.raises(EngineError, match=r"/a' belongs to user 65534, not to you \(0\).*chown.*PUTER_HOME"):
            secure_folder(tmp_path / "a")

    def test_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a").touch()
        with pytest.raises(EngineError, match="is not a folder"):
            secure_folder(tmp_path / "a")

    def test_one_below_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a").touch()
        with pytest.raises(EngineError, match="or its parent is not a folder"):
            secure_folder(tmp_path / "a" / "b")


class TestSecure:
    def test_an_own_home_made_by_hand_is_closed(self, tmp_path: Path) -> None:
        home = tmp_path / "home"
        home.mkdir()
        home.chmod(0o775)
        (home / "config.toml").touch()
        Paths.from_environ({"PUTER_HOME": str(home)}).secure()
        assert mode(home) == 0o700

    def test_a_home_that_serves_for_other_things_is_not_closed(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(InvalidInput, match=r"contains more than Puter's files \('thesis.tex'\)"):
            Paths.from_environ({"PUTER_HOME": str(tmp_path)}).secure()
        assert mode(tmp_path) == 0o755

    def test_one_that_is_private_already_may_hold_what_it_likes(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o700)
        (tmp_path / "thesis.tex").touch()
        Paths.from_environ({"PUTER_HOME": str(tmp_path)}).secure()
        assert mode(tmp_path / "engine") == 0o700

    @pytest.mark.parametrize("name", ["engine", "logs", "run"])
    def test_a_symlink_within_it_is_refused(self, tmp_path: Path, name: str) -> None:
        tmp_path.chmod(0o700)
        (tmp_path / "real").mkdir(mode=0o700)
        (tmp_path / name).symlink_to(tmp_path / "real")
        with pytest.raises(EngineError, match=f"/{name}' is a symlink"):
            Paths.from_environ({"PUTER_HOME": str(tmp_path)}).secure()
