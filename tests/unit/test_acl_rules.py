"""Rules of Redis users, and lines of the file in which they are kept."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from puter_client.acl import acl_file
from puter_client.acl.acl_file import AclFile, problem, with_line, with_password, without
from puter_client.acl.host import HostFolder, Password, address_of, check_address, url_of
from puter_client.acl.rules import FIRST_LINES, SERVICES, AclUser, Role, line, rules
from puter_client.contract.errors import InvalidInput

HASH, OTHER = "0" * 64, "1" * 64
ROLES = pytest.mark.parametrize("role", Role)


def of(role: Role, *, redis_7_0: bool = False) -> str:
    return rules(role, user="betty", namespace="team-a", redis_7_0=redis_7_0)


@ROLES
def test_a_line_says_what_its_user_is_for(role: Role) -> None:
    name = str(role) if role in SERVICES else "betty"
    namespace = None if role in SERVICES else "team-a"

    read = AclUser.read(line(name, HASH, rules(role, user=name, namespace=namespace)))

    assert read == AclUser(name=name, role=role, namespace=namespace, enabled=True)


@ROLES
def test_everything_that_a_user_may_do_is_named(role: Role) -> None:
    words = of(role).split()

    assert words[0] == "resetkeys"
    assert words.index("-@all") < min(number for number, word in enumerate(words) if word.startswith("+"))
    assert not {"allkeys", "allchannels", "allcommands", "nopass", "+@all", "~*", "&*"} & set(words)


def test_a_client_writes_to_its_own_inbox_alone() -> None:
    assert re.findall(r"%W~(\S+)", of(Role.CLIENT)) == ["puter:_in:team-a:betty", "puter:_ready"]
    assert "%W" not in of(Role.VIEWER)


@ROLES
def test_redis_7_0_gets_no_command_that_it_has_not(role: Role) -> None:
    old, new = of(role, redis_7_0=True), of(role)

    assert not {"+waitaof", "+client|setinfo"} & set(old.split())
    assert len(set(old.split())) == len(old.split()) or role in (Role.CLIENT, Role.VIEWER)
    assert ("+config|get" in old) is ("+waitaof" in new)


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("user x", AclUser(name="x", role=None, namespace=None, enabled=False)),
        ("user x on off", AclUser(name="x", role=None, namespace=None, enabled=False)),
        ("USER  x  ON nopass ~* +@all", AclUser(name="x", role=None, namespace=None, enabled=True)),
        ("user worker on", AclUser(name="worker", role=Role.WORKER, namespace=None, enabled=True)),
        ("", None),
        ("user", None),
        ("# user x on", None),
    ],
)
def test_lines_that_somebody_has_written_are_read_too(text: str, user: AclUser | None) -> None:
    assert AclUser.read(text) == user


def test_the_first_user_comes_after_those_of_every_file() -> None:
    assert with_line(None, "user x on") == [*FIRST_LINES, "user x on"]
    assert with_line(["user y on"], "user x on") == ["user y on", "user x on"]


def test_a_user_is_taken_out_and_nothing_else() -> None:
    lines = ["user xx on", "user x on", "", "junk x", "user x off", "user y on ~x"]

    assert without(lines, "x") == ["user xx on", "", "junk x", "user y on ~x"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"user x on #{HASH} ~a +get", f"user x on #{OTHER} ~a +get"),
        (f"user x on #{HASH} #{HASH} ~a", f"user x on #{OTHER} ~a"),
        ("user x off >old ~a (~b +get)", f"user x off #{OTHER} ~a (~b +get)"),
        ("user x nopass on ~a", f"user x on #{OTHER} ~a"),
        ("user x", f"user x #{OTHER}"),
    ],
)
def test_a_password_takes_the_place_of_all_that_were_there(before: str, after: str) -> None:
    assert with_password([before, "user y on >z"], "x", OTHER) == [after, "user y on >z"]


@pytest.mark.parametrize(("text", "told"), [("user x (~a", "line 2"), ("user x ~a)", "line 2"), ("user x (~a)", None)])
def test_half_a_selector_is_not_given_to_redis(text: str, told: str | None) -> None:
    assert (problem(["user y on (~b)", text]) or "").startswith(told or "")
    assert bool(problem(["user y on (~b)", text])) is bool(told)


def test_a_file_that_cannot_be_replaced_stays_as_it_is(tmp_path: Path) -> None:
    file = AclFile(tmp_path / "users.acl")
    file.write(["user x on"])
    (tmp_path / "users.acl.new").mkdir()

    with pytest.raises(InvalidInput, match="cannot be written"):
        file.write(["user y on"])

    assert file.read() == ["user x on"]


def test_what_a_killed_command_has_left_is_written_over(tmp_path: Path) -> None:
    file = AclFile(tmp_path / "users.acl")
    (tmp_path / "users.acl.new").write_text("half a li")

    file.write(["user x on"])

    assert file.read() == ["user x on"]
    assert [path.name for path in tmp_path.iterdir()] == ["users.acl"]


def test_no_link_is_followed_to_another_file(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / "users.acl.new").symlink_to(other)

    with pytest.raises(InvalidInput, match="cannot be written"):
        AclFile(tmp_path / "users.acl").write(["user x on"])

    assert other.read_text() == "mine"


@pytest.mark.parametrize(
    ("number", "told"),
    [(errno.EBUSY, "mount its folder"), (errno.EACCES, "--folder"), (errno.EROFS, "--folder"), (errno.ENOSPC, "space")],
)
def test_why_it_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, told: str
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, "No space left" if number == errno.ENOSPC else "refused")

    monkeypatch.setattr(acl_file, "write_whole", refused)

    with pytest.raises(InvalidInput, match=told):
        AclFile(tmp_path / "users.acl").write([])


@pytest.mark.parametrize(
    ("number", "told"),
    [(errno.EACCES, "run the command as root or as whom the folder belongs to"), (errno.ENOTDIR, "name a folder")],
)
def test_why_the_url_of_admin_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, told: str
) -> None:
    def refused(*_: object, **__: object) -> str:
        raise OSError(number, "refused")

    monkeypatch.setattr(Path, "read_text", refused)

    with pytest.raises(InvalidInput, match=told):
        HostFolder(tmp_path).admin_url({})


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1:6379", "redis://x:PW@127.0.0.1:6379/0"),
        ("r.example", "redis://x:PW@r.example/0"),
        ("rediss://r.example:6380/1?ssl_ca_certs=/ca.pem", "rediss://x:PW@r.example:6380/1?ssl_ca_certs=/ca.pem"),
        ("redis://[::1]:6379", "redis://x:PW@[::1]:6379/0"),
        ("unix:///run/redis.sock", "unix://x:PW@/run/redis.sock"),
    ],
)
def test_a_url_has_the_user_and_where_redis_is(address: str, url: str, tmp_path: Path) -> None:
    address = address.replace("/ca.pem", "/dev/null")

    made = url_of(check_address(address, named_by="--address"), "x", Password("PW", HASH))

    assert made == url.replace("/ca.pem", "/dev/null")


def test_a_new_password_has_256_bits_and_is_shown_by_no_repr() -> None:
    password = Password.random()

    assert (len(password.text), len(password.hash)) == (64, 64)
    assert password.text not in repr(password)
    assert Password.random() != password


@pytest.mark.parametrize(
    ("role", "option", "environ", "address"),
    [
        (Role.CLIENT, None, {}, "127.0.0.1:6379"),
        (Role.WORKER, None, {}, "127.0.0.1:6379"),
        (Role.CLIENT, None, {"PUTER_SERVICES_REDIS_ADDRESS": "redis:6379"}, "127.0.0.1:6379"),
        (Role.WORKER, None, {"PUTER_SERVICES_REDIS_ADDRESS": "redis:6379"}, "redis:6379"),
        (Role.ADMIN, None, {"PUTER_REDIS_ADDRESS": "r:1"}, "r:1"),
        (Role.WORKER, "o:1", {"PUTER_SERVICES_REDIS_ADDRESS": "redis:6379", "PUTER_REDIS_ADDRESS": "r:1"}, "o:1"),
    ],
)
def test_services_may_find_redis_elsewhere_than_people(
    role: Role, option: str | None, environ: dict[str, str], address: str
) -> None:
    assert address_of(role, option, environ)[0] == address
