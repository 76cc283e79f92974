"""Keys that EC2 makes for a host that cannot make its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from puter_worker.ec2.answers import KeyPairs
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.keypairs import create_key_pair
from puter_worker.ec2.session import Sessions
from puter_worker.ownkey import own_key


async def held(caller: Caller) -> list[str]:
    return [pair.key_name for pair in (await caller.call("DescribeKeyPairs", KeyPairs)).key_pairs]


def kept(folder: Path) -> list[str]:
    return [path.stem for path in folder.glob("*.pem")]


def modes(path: Path) -> tuple[int, int]:
    return path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777


async def test_its_private_half_is_in_a_file_of_the_owners_alone(caller: Caller, tmp_path: Path) -> None:
    own = await own_key(caller, tmp_path / "keys")

    path = Path(own.private_key_path)
    assert modes(path) == (0o600, 0o700)
    assert "PRIVATE KEY" in _read(path)
    assert path.stem == own.pair.name


async def test_it_is_made_once(caller: Caller, tmp_path: Path) -> None:
    first = await own_key(caller, tmp_path)
    again = await own_key(caller, tmp_path)

    assert again.private_key_path == first.private_key_path
    assert await held(caller) == [first.pair.name]


async def test_a_name_that_somebody_else_has_is_left_to_them(caller: Caller, tmp_path: Path) -> None:
    await create_key_pair(caller, "puter-v1")

    own = await own_key(caller, tmp_path)

    assert own.pair.name.startswith("puter-v1-")
    assert kept(tmp_path) == [own.pair.name]


async def test_a_name_that_somebody_else_has_in_another_region_is_left_to_them(
    caller: Caller, sessions: Sessions, tmp_path: Path
) -> None:
    """Their machines must not admit us, nor ours them."""
    first = await own_key(caller, tmp_path)
    elsewhere = Caller(sessions, profile=None, region="eu-west-1")
    theirs, _ = await create_key_pair(elsewhere, first.pair.name)

    own = await own_key(elsewhere, tmp_path)

    assert own.pair.key_pair_id != theirs.key_pair_id
    assert own.pair.name.startswith("puter-v1-")
    assert await own_key(caller, tmp_path) == first
    assert await own_key(elsewhere, tmp_path) == own


async def test_a_key_of_which_nobody_knows_whose_pair_it_is_is_not_used(caller: Caller, tmp_path: Path) -> None:
    first = await own_key(caller, tmp_path)
    Path(first.private_key_path).with_suffix(".key-pair-id").unlink()

    assert (await own_key(caller, tmp_path)).pair.name != first.pair.name


async def test_where_its_file_cannot_be_made_ec2_is_not_requested_it(caller: Caller, tmp_path: Path) -> None:
    in_the_way = tmp_path / "keys"
    in_the_way.symlink_to(tmp_path / "nowhere")

    with pytest.raises(OSError, match="keys"):
        await own_key(caller, in_the_way)

    assert await held(caller) == []


async def test_of_one_that_ec2_did_not_make_no_file_is_left(
    caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(*_: Any) -> Any:
        raise RuntimeError("the worker is stopped")

    monkeypatch.setattr("puter_worker.ownkey.create_key_pair", interrupted)
    with pytest.raises(RuntimeError):
        await own_key(caller, tmp_path)

    assert kept(tmp_path) == []


def _read(path: Path) -> str:
    return path.read_text()
