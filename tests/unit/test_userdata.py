"""What user data is composed of; that it does what it should is for test_userdata_runs."""

from __future__ import annotations

import email
import gzip
import random
import re
import shlex
import string
from collections.abc import Callable
from contextlib import suppress
from email.message import Message
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puter_client.contract.fields import USER_DATA_LIMIT_BYTES, InvalidSpec, build_spec
from puter_client.contract.key import PuterKey
from puter_client.contract.userdata import MAX_PARTS
from puter_worker.ec2.userdata import Boot, Machine, compose
from puter_worker.errors import UserDataTooLarge

BOOT = Boot(ttl_s=3600, nonce="0" * 16, expires_at="never", user="ec2-user")
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=80)


MULTIPART = """\
Content-Type: multipart/mixed; boundary="b"
MIME-Version: 1.0

--b
Content-Type: text/x-shellscript
Content-Disposition: attachment; filename="first.sh"

#!/bin/sh
echo grüß Gott
--b
Content-Type: text/cloud-config
Content-Transfer-Encoding: base64

I2Nsb3VkLWNvbmZpZwpwYWNrYWdlczogW2dpdF0K
--b--
"""


def machine(
    number: int = 1,
    *,
    run: str | None = None,
    env: dict[str, str] | None = None,
    user_data: str | None = None,
) -> Machine:
    key = PuterKey("alice", f"sweep-{number}")
    return Machine(key=key, generation=2, run=run, env=env or {}, user_data=user_data)


def noise(size: int) -> str:
    return random.Random(1).randbytes(size).hex()[:size]


def leaves(data: bytes) -> list[Message]:
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    return [part for part in email.message_from_bytes(data).walk() if not part.is_multipart()]


def body(part: Message) -> bytes:
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload


def names(data: bytes) -> list[str | None]:
    return [part.get_filename() for part in leaves(data)]


def test_the_deadline_comes_first_and_the_users_part_last() -> None:
    data = compose(BOOT, [machine(run="make", user_data="#!/bin/sh\ntrue\n")])

    assert names(data) == [
        "000-puter-0-deadline",
        "000-puter-1-at",
        "000-puter-2-docker",
        "000-puter-3-agent",
        "000-puter-4-task",
        None,
    ]


def test_the_deadline_is_a_boothook_so_that_each_boot_runs_it_early() -> None:
    assert leaves(compose(BOOT, [machine()]))[0].get_content_type() == "text/cloud-boothook"


def test_puters_scripts_run_before_nameless_ones_of_the_user() -> None:
    data = compose(BOOT, [machine(run="make", user_data="#!/bin/sh\ntrue\n")])

    named = [name for name in names(data) if name]
    assert sorted([*named, "part-001", "runcmd"]) == [*named, "part-001", "runcmd"]


def test_without_a_ttl_nothing_speaks_of_at() -> None:
    assert "000-puter-1-at" not in names(compose(msgspec.structs.replace(BOOT, ttl_s=None), [machine()]))


def test_without_a_workload_the_agent_is_there_for_orders() -> None:
    assert names(compose(BOOT, [machine()])) == [
        "000-puter-0-deadline",
        "000-puter-1-at",
        "000-puter-2-docker",
        "000-puter-3-agent",
    ]


def test_docker_can_be_left_out() -> None:
    assert "000-puter-2-docker" not in names(compose(msgspec.structs.replace(BOOT, docker=False), [machine()]))


@pytest.mark.parametrize("ttl_s", [60, None])
def test_no_placeholder_is_left(ttl_s: int | None) -> None:
    data = compose(msgspec.structs.replace(BOOT, ttl_s=ttl_s, user="ec2-user"), [machine(run="make")])

    assert not [part for part in leaves(data) if re.search(rb"@[a-z_]+@", body(part))]


def test_the_same_machines_give_the_same_bytes() -> None:
    machines = [machine(n, run=f"make {n}", env={"B": "1", "A": "2"}) for n in range(5)]
    again = [machine(n, run=f"make {n}", env={"A": "2", "B": "1"}) for n in range(5)]

    assert compose(BOOT, machines) == compose(BOOT, again)


ALPHABETS = {
    "hexadecimal": "0123456789abcdef",
    "base64": string.ascii_letters + string.digits + "+/",
    "printable": "".join(map(chr, range(0x20, 0x7F))),
    "latin": "".join(map(chr, range(0xA1, 0x250))),
    "of two bytes": "".join(map(chr, range(0xA1, 0x800))),
    "chinese": "".join(map(chr, range(0x4E00, 0x9F00))),
}


SHAPES: dict[str, Callable[[str], dict[str, Any]]] = {
    "run": lambda text: {"run": text},
    "env": lambda text: {"run": "./render", "env": {"LONG": text}},
    "user_data": lambda text: {"run": "./render", "user_data": f"#!/bin/sh\n{text}"},
    "parts": lambda text: {"run": "./render", "user_data": in_parts(text)},
}


def in_parts(text: str) -> str:
    """User data of as many parts as there may be, with names that cannot be compressed."""
    size = len(text) // MAX_PARTS
    parts = [
        f'--b\nContent-Type: text/x-shellscript; charset="utf-8"\nContent-Disposition: attachment; filename="{name}"\n'
        f"\n#!/bin/sh\n{text[at * size : (at + 1) * size]}\n"
        for at, name in enumerate(random.Random(seed).randbytes(50).hex() for seed in range(MAX_PARTS))
    ]
    return f'Content-Type: multipart/mixed; boundary="b"\nMIME-Version: 1.0\n\n{"".join(parts)}--b--\n'


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS)
def test_what_the_client_lets_through_fits(shape: Callable[[str], dict[str, Any]], alphabet: str) -> None:
    noise = "".join(random.Random(1).choices(alphabet, k=2**14))
    taken = 0
    for more in (2**at for at in range(13, 2, -1)):  # to the most that the client takes
        with suppress(InvalidSpec):
            build_spec(shape(noise[: taken + more]))
            taken += more

    left = USER_DATA_LIMIT_BYTES - len(compose(BOOT, [machine(**shape(noise[:taken]))]))

    assert 0 <= left < 700


def test_puters_own_parts_are_plain_text() -> None:
    """Any other character has all of a part travel as base64: a workload in it would take a third more room."""
    machines = [machine(n, run="make", env={"A": "1"}) for n in range(2)]
    parts = [*leaves(compose(BOOT, machines)), *leaves(compose(BOOT, machines, by_tag=True))]

    assert {part.get("Content-Transfer-Encoding") for part in parts} == {None}


def test_gzip_bears_no_time() -> None:
    assert compose(BOOT, [machine(1), machine(2)])[4:8] == b"\0\0\0\0"


def test_a_hundred_workloads_add_under_2_kb() -> None:
    hundred = compose(BOOT, [machine(n, run=f"render --frame {n}") for n in range(100)])

    assert len(hundred) < len(compose(BOOT, [machine(1, run="render --frame 1")])) + 2_000


def test_what_does_not_fit_is_refused_with_its_size_and_a_remedy() -> None:
    with pytest.raises(UserDataTooLarge) as refused:
        compose(BOOT, [machine(run="make", user_data="#!/bin/sh\n# " + noise(32_000))])

    assert refused.value.excess == refused.value.size - 16_384 > 0
    assert str(refused.value).endswith(
        f" {refused.value.size:,} bytes gzipped, {refused.value.excess:,} more than the 16,384 that EC2 accepts: "
        "shorten user_data, or fetch it from within the machine"
    )


def test_a_group_that_does_not_fit_is_to_be_split() -> None:
    with pytest.raises(UserDataTooLarge, match=r"user data of 2 machines .* smaller groups"):
        compose(BOOT, [machine(1), machine(2, run=noise(40_000))])


@pytest.mark.parametrize("field", ["run", "env"])
def test_a_group_that_is_much_too_large_is_refused_before_it_is_rendered(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [random.Random(number).randbytes(8_000).hex() for number in range(100)]

    def rendered(_: object) -> bytes:
        raise AssertionError("a hundred workloads of 16 KB take a worker's loop a tenth of a second")

    monkeypatch.setitem(compose.__globals__, "render", rendered)
    alike = field == "env"
    group = [
        machine(n, run="make" if alike else text, env={"A": text} if alike else {}) for n, text in enumerate(texts)
    ]
    with pytest.raises(UserDataTooLarge, match="smaller groups"):
        compose(BOOT, group)


def test_the_refusal_shows_nothing_of_the_content() -> None:
    with pytest.raises(UserDataTooLarge) as refused:
        compose(BOOT, [machine(run=noise(40_000))])

    assert noise(40_000)[:20] not in str(refused.value)


def test_a_machines_repr_shows_no_secret() -> None:
    assert "hunter2" not in repr(machine(run="login hunter2", env={"P": "hunter2"}, user_data="#! hunter2"))


def test_no_machines_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no machines"):
        compose(BOOT, [])


def test_each_member_of_a_group_has_its_workload_under_its_index() -> None:
    data = compose(BOOT, [machine(n, run=f"make {n}") for n in range(3)])

    tasks = [part for part in leaves(data) if part.get_filename() == "000-puter-4-task"]
    assert [(part["Launch-Index"], f"'make {n}'".encode() in body(part)) for n, part in enumerate(tasks)] == [
        ("0", True),
        ("1", True),
        ("2", True),
    ]


def test_what_members_share_has_no_index() -> None:
    data = compose(BOOT, [machine(n, user_data="#!/bin/sh\ntrue\n") for n in range(3)])

    assert [part["Launch-Index"] for part in leaves(data)] == [None] * 5


def test_what_is_in_a_shared_multipart_has_no_index() -> None:
    data = compose(BOOT, [machine(n, run=f"make {n}", user_data=MULTIPART) for n in range(2)])

    assert [part["Launch-Index"] for part in leaves(data)][-4:] == ["0", "1", None, None]


@pytest.mark.parametrize("other", [None, "#!/bin/sh\ntrue\n\n", MULTIPART])
def test_machines_with_different_user_data_are_a_mistake_of_the_caller(other: str | None) -> None:
    with pytest.raises(ValueError, match="different user_data"):
        compose(BOOT, [machine(1, user_data="#!/bin/sh\ntrue\n"), machine(2, user_data=other)])


def test_one_machines_parts_have_no_index() -> None:
    data = compose(BOOT, [machine(run="make", user_data="#!/bin/sh\necho 1\n")])

    assert {part["Launch-Index"] for part in leaves(data)} == {None}


@given(run=TEXT, env=st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True), TEXT))
def test_run_and_env_are_quoted_whole(run: str, env: dict[str, str]) -> None:
    task = leaves(compose(BOOT, [machine(run=run, env=env)]))[-1]

    words = shlex.split(body(task).decode().split("\ntask ")[-1])
    assert words == ["alice/sweep-1", "2", "shutdown", run, *(f"{name}={value}" for name, value in sorted(env.items()))]


def test_spot_machines_get_the_workloads_of_all_in_one_part() -> None:
    machines = [machine(1, run="make a", env={"A": "x y"}), machine(2), machine(3, run="make c;; 1) rm")]

    *_, tasks = leaves(compose(BOOT, machines, by_tag=True))

    assert tasks["Launch-Index"] is None
    said = body(tasks).decode().partition("case ")[2]
    assert shlex.split(said.replace("\n", " ; ")) == [
        *["${1:-}", "in", ";", ")", "keep", ";;", ";"],
        *["0)", ";", "task", "alice/sweep-1", "2", "shutdown", "make a", "A=x y", ";", ";;", ";"],
        *["2)", ";", "task", "alice/sweep-3", "2", "shutdown", "make c;; 1) rm", ";", ";;", ";", "esac", ";"],
    ]


@pytest.mark.parametrize("user_data", [None, "#!/bin/sh\ntrue\n"])
def test_spot_machines_without_workloads_get_none(user_data: str | None) -> None:
    machines = [machine(1, user_data=user_data), machine(2, user_data=user_data)]

    assert compose(BOOT, machines, by_tag=True) == compose(BOOT, machines)


@given(user_data=TEXT.map(lambda text: "#!/bin/sh\n" + text))
def test_the_users_text_arrives_to_the_byte(user_data: str) -> None:
    assert body(leaves(compose(BOOT, [machine(user_data=user_data)]))[-1]) == user_data.encode()


def test_a_multiparts_parts_are_taken_singly() -> None:
    parts = leaves(compose(BOOT, [machine(user_data=MULTIPART)]))[-2:]

    assert [(part.get_content_type(), part.get_filename(), body(part).decode()) for part in parts] == [
        ("text/x-shellscript", "first.sh", "#!/bin/sh\necho grüß Gott"),
        ("text/cloud-config", None, "#cloud-config\npackages: [git]\n"),
    ]
