"""For which Redis the rules of a user are, where none runs that could be asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from puter_client.acl import version
from puter_client.acl.version import Installed, installed, read_answer, read_version
from puter_client.contract.errors import InvalidInput

REDIS_7_0 = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=ae4d7c971a948f0\n"
REDIS_7_4 = REDIS_7_0.replace("7.0.15", "7.4.1")
REDIS_6 = REDIS_7_0.replace("7.0.15", "6.2.14")
VALKEY = "Valkey server v=8.1.3 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=1\n"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A folder on the PATH, and a usual place that is not."""
    on_path, usual = tmp_path / "bin", tmp_path / "sbin"
    monkeypatch.setenv("PATH", str(on_path))
    monkeypatch.setattr(version, "_USUAL_PLACES", (str(usual),))
    return on_path, usual


def server(folder: Path, name: str, says: str, *, code: int = 0) -> None:
    """A server that says what it is."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n[ \"$*\" = --version ] || exit 9\necho '{says.strip()}'\nexit {code}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(("text", "version"), [("7.0", (7, 0)), ("7.0.15", (7, 0)), ("8.1", (8, 1)), ("10.0", (10, 0)),
                                               ("8", (8, 0))])  # fmt: skip
def test_versions_are_compared_as_numbers(text: str, version: tuple[int, int]) -> None:
    assert read_version(text) == version


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("6", "Redis 6.0 is too old: Puter needs Redis 7.0 or newer, or Valkey"),
        ("6.2", "Redis 6.2 is too old"),
        ("0", "is too old"),
        ("7", "--redis-version '7': write it like 7.0 or 7.2"),
        ("", "write it like"),
        ("v7.0", "write it like"),
        ("7.0.15.1", "write it like"),
        ("12345.0", "write it like"),
    ],
)
def test_what_is_no_version_is_told_with_the_remedy(text: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        read_version(text)


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        (REDIS_7_0, Installed("Redis 7.0.15", (7, 0))),
        (VALKEY, Installed("Valkey 8.1.3", (8, 1))),
        (VALKEY.replace("8.1.3", "8.1.0-rc1"), Installed("Valkey 8.1.0-rc1", (8, 1))),
        ("Memcached 1.6\n", None),
        ("Redis server v=new sha=0\n", None),
        ("", None),
    ],
)
def test_a_server_says_what_it_is(answer: str, read: Installed | None) -> None:
    assert read_answer(answer) == read


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(("name", "says"), [("redis-server", REDIS_7_0), ("valkey-server", VALKEY)])
def test_the_one_that_is_installed_is_asked(places: tuple[Path, Path], place: int, name: str, says: str) -> None:
    server(places[place], name, says)

    assert installed() == read_answer(says)


def test_two_that_take_the_same_rules_are_no_question(places: tuple[Path, Path]) -> None:
    server(places[0], "redis-server", REDIS_7_4)
    server(places[1], "valkey-server", VALKEY)

    assert installed() == Installed("Redis 7.4.1", (7, 4))


def test_of_two_that_need_different_rules_none_is_guessed(places: tuple[Path, Path]) -> None:
    server(places[0], "redis-server", REDIS_7_0)
    server(places[1], "valkey-server", VALKEY)

    with pytest.raises(InvalidInput, match=r"Redis 7\.0\.15 and Valkey 8\.1\.3 are installed.*write --redis-version"):
        installed()


def test_one_that_is_too_old_is_told(places: tuple[Path, Path]) -> None:
    server(places[0], "redis-server", REDIS_6)

    with pytest.raises(InvalidInput, match=r"Redis 6\.2 is too old"):
        installed()


@pytest.mark.parametrize(("says", "code"), [("what?", 0), (REDIS_7_0, 1)])
def test_one_that_does_not_say_is_none(places: tuple[Path, Path], says: str, code: int) -> None:
    server(places[0], "redis-server", says, code=code)

    assert installed() is None


def test_nowhere_is_none(places: tuple[Path, Path]) -> None:
    assert installed() is None
