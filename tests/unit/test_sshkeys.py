"""The client's ssh key, with the real ssh-keygen."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from puter_client.contract.errors import InvalidInput
from puter_client.sshkeys import ClientKey, client_key

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPx8Tn8wJmVvLq1uwRWhGtg5zT8p7xyk8vJ4k8jVvq3Z"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "private_keys"


def public_half(path: Path) -> list[str]:
    read = subprocess.run(["ssh-keygen", "-y", "-f", str(path)], capture_output=True, text=True, check=True)
    return read.stdout.split()[:2]


def without_ssh_keygen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


class TestOwnKey:
    def test_it_is_made_where_there_is_none(self, folder: Path) -> None:
        key = client_key(folder)
        assert key.private_key_path == str(folder / "puter-v1.pem")
        assert key.public_key is not None
        assert key.public_key.split() == [*public_half(folder / "puter-v1.pem"), "puter"]

    def test_nobody_else_can_read_it(self, folder: Path) -> None:
        client_key(folder)
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "puter-v1.pem")]
        assert modes == [0o700, 0o600]

    def test_nothing_else_is_left_in_the_folder(self, folder: Path) -> None:
        client_key(folder)
        assert [path.name for path in folder.iterdir()] == ["puter-v1.pem"]

    def test_the_next_time_it_is_the_same(self, folder: Path) -> None:
        assert client_key(folder) == client_key(folder)

    def test_of_many_that_make_one_at_once_all_use_the_same(self, folder: Path) -> None:
        with ThreadPoolExecutor(8) as pool:
            keys = {key.public_key for key in pool.map(lambda _: client_key(folder), range(8))}
        assert len(keys) == 1

    def test_an_unreadable_one_is_told_of_and_never_overwritten(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "puter-v1.pem").write_text("mine\n")
        (folder / "puter-v1.pem").chmod(0o600)
        with pytest.raises(InvalidInput, match=r"cannot be read: ssh-keygen says .*--public-key FILE"):
            client_key(folder)
        assert (folder / "puter-v1.pem").read_text() == "mine\n"

    def test_with_the_local_engine_ec2_can_make_one(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without_ssh_keygen(monkeypatch, tmp_path)
        assert client_key(folder, local_engine=True) == ClientKey()

    def test_with_a_shared_redis_the_remedies_are_named(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without_ssh_keygen(monkeypatch, tmp_path)
        with pytest.raises(InvalidInput, match=r"openssh-client.*--public-key FILE"):
            client_key(folder, local_engine=False)


class TestNamedKey:
    def test_the_private_half_kept_under_the_name_is_used(self, folder: Path) -> None:
        client_key(folder)
        (folder / "puter-v1.pem").rename(folder / "team.pem")
        key = client_key(folder, key_name="team")
        assert key.private_key_path == str(folder / "team.pem")
        assert key.public_key is not None
        assert key.public_key.split()[:2] == public_half(folder / "team.pem")

    def test_where_there_is_none_none_is_made(self, folder: Path) -> None:
        assert (client_key(folder, key_name="team"), folder.exists()) == (ClientKey(), False)

    @pytest.mark.parametrize("name", ["../outside", "/etc/outside", ".."])
    def test_a_name_never_leads_out_of_the_folder(self, folder: Path, name: str) -> None:
        client_key(folder)
        shutil.copy(folder / "puter-v1.pem", folder.parent / "outside.pem")
        assert client_key(folder, key_name=name) == ClientKey()


class TestUsersOwnKey:
    def write(self, path: Path, text: str) -> str:
        path.write_text(text)
        return str(path)

    def test_its_private_half_lies_beside_it(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "id_ed25519").write_text("private")
        file = self.write(tmp_path / "id_ed25519.pub", f"{LINE} me@host\n")
        assert client_key(folder, public_key_file=file) == ClientKey(
            public_key=f"{LINE} me@host", private_key_path=str(tmp_path / "id_ed25519")
        )

    def test_one_that_notepad_saved_is_read(self, folder: Path, tmp_path: Path) -> None:
        file = self.write(tmp_path / "key.pub", f"\ufeff{LINE}\r\n")
        assert client_key(folder, public_key_file=file).public_key == LINE

    def test_without_a_private_half_an_agent_has_it(self, folder: Path, tmp_path: Path) -> None:
        file = self.write(tmp_path / "key.pub", LINE)
        assert client_key(folder, public_key_file=file) == ClientKey(public_key=LINE)

    def test_no_other_key_is_made(self, folder: Path, tmp_path: Path) -> None:
        client_key(folder, public_key_file=self.write(tmp_path / "key.pub", LINE))
        assert not folder.exists()

    def test_a_relative_path_is_kept_from_the_root(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.write(tmp_path / "key.pub", LINE)
        self.write(tmp_path / "key", "private")
        monkeypatch.chdir(tmp_path)
        assert client_key(folder, public_key_file="key.pub").private_key_path == str(tmp_path / "key")

    def test_a_private_key_is_refused_and_not_shown(self, folder: Path, tmp_path: Path) -> None:
        file = self.write(tmp_path / "id", "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n")
        with pytest.raises(InvalidInput, match="is a private key") as caught:
            client_key(folder, public_key_file=file)
        assert "c2VjcmV0" not in str(caught.value)

    @pytest.mark.parametrize("text", ["", "hello", f"{LINE}\n{LINE}\n", "ecdsa-sha2-nistp256 AAAA"])
    def test_anything_but_one_public_key_is_refused(self, folder: Path, tmp_path: Path, text: str) -> None:
        with pytest.raises(InvalidInput, match="--public-key"):
            client_key(folder, public_key_file=self.write(tmp_path / "k.pub", text))

    @pytest.mark.parametrize("name", ["gone.pub", "."])
    def test_what_is_no_file_is_refused(self, folder: Path, tmp_path: Path, name: str) -> None:
        with pytest.raises(InvalidInput, match="--public-key"):
            client_key(folder, public_key_file=str(tmp_path / name))

    @pytest.mark.skipif(sys.platform == "win32", reason="needs /dev/zero")
    def test_a_device_is_not_read(self, folder: Path) -> None:
        with pytest.raises(InvalidInput, match="is not a regular file"):
            client_key(folder, public_key_file="/dev/zero")
