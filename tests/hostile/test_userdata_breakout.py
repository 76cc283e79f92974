"""Nothing that a user writes gets out of its part: cloud-init's own code, on whatever Puter composes or refuses."""

from __future__ import annotations

import email
import gzip
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import pytest

from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import PuterKey
from puter_client.contract.userdata import PUTERS, ContentType, Part, parts_of
from puter_worker.ec2.userdata import Boot, Machine, compose
from puter_worker.ec2.userdata.mime import render
from puter_worker.errors import UserDataTooLarge
from tests.hostile.sizes import SEED, size
from tests.hostile.words import WORDS, text
from tests.integration.cloud_init import TREES, Arrived, CloudInit, needs_cloud_init

BOOT = Boot(ttl_s=3_600, nonce="0" * 16, expires_at="never", user="ec2-user")
GROUPS = size(300, 2_000)


@pytest.fixture(scope="module", params=TREES, ids=lambda tree: Path(tree).name if tree else "installed")
def cloud_init(request: pytest.FixtureRequest) -> CloudInit:
    needs_cloud_init()
    return CloudInit(request.param)


# -- the deadline: whatever is behind it ---

BEGINNINGS: dict[ContentType, bytes] = {
    "text/x-shellscript": b"#!/bin/sh\n",
    "text/cloud-config": b"#cloud-config\n",
    "text/cloud-boothook": b"#cloud-boothook\n",
    "text/jinja2": b"## template: jinja\n#cloud-config\n",
}
TRUNCATED = (
    b'Content-Type: multipart/mixed; boundary="b"\nMIME-Version: 1.0\n\n--b\nContent-Type: text/x-include-url\n\n'
)
BROKEN = {
    "nothing": b"",
    "gzip that is none": b"\x1f\x8b\x08\0broken",
    "gzip": gzip.compress(b"#cloud-config-archive\n- '#!/bin/sh'\n", mtime=0),
    "a truncated boundary": TRUNCATED + b"#include file:///etc/passwd\n--b",
    "an address to include": b"#include file:///etc/passwd\n",
    "16 KB of NUL": bytes(16_384),
    "invalid UTF-8": b"\xff\xfe\xc3(\xed\xa0\x80\x80",
    "no YAML": b"{{{: [}\n\t- :",
    "YAML without an end": b"[" * 1_000,
    "YAML that is a list": b"- a\n- b\n",
    "a template without an end": b"{% for a in b %}{{ c.d.e }",
    "headers": b"Launch-Index: 7\nContent-Transfer-Encoding: base64\n\n%%%",
    "lines that end with CR": b"\rFrom x\r--\r" * 500,
    "one line": b"x" * 16_000,
}
DEADLINE = Part(
    content_type="text/cloud-boothook", body=b'#!/bin/sh\necho deadline >>"$TOLD"\n', filename="000-puter-0"
)
SCRIPT = Part(content_type="text/x-shellscript", body=b"#!/bin/sh\n", filename="000-puter-1")
LAST = Part(content_type="text/cloud-boothook", body=b'#!/bin/sh\necho last >>"$TOLD"\n', filename="last")


def test_a_broken_part_keeps_nothing_before_or_behind_it_from_being_done(cloud_init: CloudInit, tmp_path: Path) -> None:
    broken = {
        (name, kind): Part(content_type=kind, body=beginning + body)
        for name, body in BROKEN.items()
        for kind, beginning in BEGINNINGS.items()
    }

    booted = cloud_init.boots(tmp_path, [render([DEADLINE, SCRIPT, part, LAST]) for part in broken.values()])

    done = {
        of: (boot.raised, boot.told, "000-puter-1" in boot.scripts) for of, boot in zip(broken, booted, strict=True)
    }
    assert done == dict.fromkeys(broken, (None, ["deadline", "last"], True))


def test_all_broken_parts_together_keep_the_deadline_from_nothing(cloud_init: CloudInit, tmp_path: Path) -> None:
    broken = [
        Part(content_type=kind, body=beginning + body)
        for kind, beginning in BEGINNINGS.items()
        for body in BROKEN.values()
    ]

    (booted,) = cloud_init.boots(tmp_path, [render([DEADLINE, *broken, LAST])])

    assert (booted.raised, booted.told) == (None, ["deadline", "last"])


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("kind", BEGINNINGS)
def test_a_part_that_does_not_begin_as_its_type_is_not_rendered(kind: ContentType, body: bytes) -> None:
    with pytest.raises(InvalidInput, match="does not begin as"):
        render([DEADLINE, Part(content_type=kind, body=body)])


def test_a_message_that_puter_did_not_render_can_lose_the_deadline(cloud_init: CloudInit, tmp_path: Path) -> None:
    spoiled = render([DEADLINE, SCRIPT]) + b"\xff"

    (booted,) = cloud_init.boots(tmp_path, [spoiled])

    assert "UnicodeDecodeError" in (booted.raised or "")
    assert booted.told == []


# -- types ---


def multipart(content_type: str | None, body: str) -> str:
    header = "" if content_type is None else f"Content-Type: {content_type}\n"
    return f'Content-Type: multipart/mixed; boundary="b"\nMIME-Version: 1.0\n\n--b\n{header}\n{body}\n--b--\n'


ODD_TYPES = (
    "téxt/x", "text/x-shellscripté", "TEXT/CLOUD-CONFIG-ARCHIVE", "text", "", "/", "text/", "multipart/mixed",
    'multipart/mixed; boundary="c"', "message/rfc822", "message/external-body", "text/html", "application/x-puter",
    "text/x-shellscript/x", "text/x-shellscript text/x-include-url", "=?utf-8?q?text/x-include-url?=",
)  # fmt: skip


def test_no_type_that_cloud_init_knows_breaks_out(cloud_init: CloudInit) -> None:
    known = cloud_init.known()
    texts = [
        f"{beginning} \nfile:///etc/passwd\n" for beginning in [*known.beginnings, *map(str.upper, known.beginnings)]
    ]
    texts += [beginning.decode() + "a: b\n" for beginning in BEGINNINGS.values()]
    tried = [multipart(kind, text) for kind in [None, *known.types, *ODD_TYPES] for text in texts] + texts
    accepted = [text for text in tried if is_accepted(text)]

    arrived = cloud_init.parts([(composed(given), 2) for given in accepted])

    for given, members in zip(accepted, arrived, strict=True):
        assert [own(parts) for parts in members] == [as_given(given)] * 2
        assert {kind for kind, _ in as_given(given)} <= set(get_args(ContentType))
    assert len(accepted) > len(BEGINNINGS)


def is_accepted(user_data: str) -> bool:
    try:
        parts_of(user_data)
    except InvalidInput:
        return False
    return True


def composed(user_data: str) -> bytes:
    return compose(BOOT, [member(n, "true", {}, user_data) for n in range(2)])


def as_given(user_data: str) -> list[tuple[str, bytes]]:
    return [(part.content_type, part.body) for part in parts_of(user_data)]


def own(parts: list[Arrived]) -> list[tuple[str, bytes]]:
    """What is not Puter's."""
    return [(part.type, part.body) for part in parts if not part.name.startswith(PUTERS)]


def member(number: int, run: str, env: dict[str, str], user_data: str | None = None) -> Machine:
    return Machine(key=PuterKey("alice", f"sweep-{number}"), generation=1, run=run, env=env, user_data=user_data)


# -- random user data, and random groups ---


def user_data(dice: random.Random) -> str:
    """User data of some form that is accepted, or was until something was changed in it."""
    body = dice.choice(list(BEGINNINGS.values())).decode() + text(dice, 4)
    if dice.random() < 0.7:
        kind = dice.choice([None, *get_args(ContentType), "text/plain"])
        body = multipart(kind, body)
    if dice.random() < 0.5:
        at = dice.randint(0, len(body))
        body = body[:at] + dice.choice(WORDS) + body[at + dice.randint(0, 3) :]
    return body


def test_random_user_data_is_refused_or_arrives_as_it_was_given(cloud_init: CloudInit) -> None:
    dice = random.Random(SEED + 9)
    accepted = [tried for _ in range(GROUPS * 4) if is_accepted(tried := user_data(dice))]

    arrived = cloud_init.parts([(composed(given), 2) for given in accepted])

    for given, members in zip(accepted, arrived, strict=True):
        assert [own(parts) for parts in members] == [as_given(given)] * 2
    assert len(accepted) > GROUPS / 4


def random_part(dice: random.Random, members: int) -> Part:
    # In cloud-config cloud-init finds launch indexes itself; Puter refuses them there.
    kind = dice.choice([kind for kind in BEGINNINGS if kind != "text/cloud-config"])
    body = (
        BEGINNINGS[kind]
        + text(dice, 6).encode()
        + dice.choice([b"", b"\0", b"\xff\xfe\n", dice.randbytes(40), b"\r\n"])
    )
    return Part(content_type=kind, body=body, launch_index=dice.choice([None, *range(members)]))


def test_whatever_bytes_a_part_has_they_arrive_at_its_index_and_nowhere_else(cloud_init: CloudInit) -> None:
    dice = random.Random(SEED + 5)
    launches = [[random_part(dice, 4) for _ in range(dice.randint(1, 8))] for _ in range(GROUPS)]

    arrived = cloud_init.parts([(render(parts), 4) for parts in launches])

    for given, members in zip(launches, arrived, strict=True):
        for index, parts in enumerate(members):
            due = [(part.content_type, part.body) for part in given if part.launch_index in (None, index)]
            assert [(part.type, part.body) for part in parts] == due


def group(dice: random.Random, number: int, words: Sequence[str]) -> list[Machine]:
    count = 100 if number % 100 == 0 else dice.randint(2, 12)
    most = 1 if count == 100 else 4
    shared = dice.choice(
        [None, "#!/bin/sh\ntrue\n", "#cloud-config\n{}\n", multipart(None, "#!/bin/sh\n" + text(dice, 1))]
    )
    shared = shared if shared and is_accepted(shared) else None
    machines = []
    for index in range(count):
        run = f"sweep-{index}. {text(dice, most, words)}" + ("\0" if dice.random() < 0.05 else "")
        env = {f"V{n}": f"sweep-{index}. {text(dice, most, words)}" for n in range(dice.randint(0, 2))}
        machines.append(member(index, run, env, shared))
    return machines


def launches(machines: list[Machine]) -> Iterator[tuple[bytes, list[Machine]]]:
    """The launches of a group, as the stage divides it."""
    try:
        yield compose(BOOT, machines), machines
    except UserDataTooLarge:
        half = len(machines) // 2
        if half:
            yield from launches(machines[:half])
            yield from launches(machines[half:])


def alone(machine: Machine) -> list[tuple[str | None, str, bytes]]:
    """The parts of a machine that is launched by itself, as another parser of MIME reads them."""
    data = compose(BOOT, [machine])
    message = email.message_from_bytes(gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data)
    leaves = [part for part in message.walk() if not part.is_multipart()]
    return [(leaf.get_filename(), leaf.get_content_type(), bytes(leaf.get_payload(decode=True))) for leaf in leaves]


def test_each_member_of_a_random_group_gets_what_it_would_get_alone_and_nothing_of_others(
    cloud_init: CloudInit,
) -> None:
    dice, known = random.Random(SEED + 41), cloud_init.known()
    types = [f"\nContent-Type: {kind}\n\n{beginning}\n" for kind in known.types for beginning in ("", "#!/bin/sh")]
    words = [*WORDS, *types, *(f"{beginning}\n" for beginning in known.beginnings)]
    tried = [launch for number in range(GROUPS) for launch in launches(group(dice, number, words))]

    arrived = cloud_init.parts([(data, len(machines)) for data, machines in tried])

    for (_, machines), members in zip(tried, arrived, strict=True):
        for machine, parts in zip(machines, members, strict=True):
            found = [(part.name if part.name.startswith(PUTERS) else None, part.type, part.body) for part in parts]
            assert found == alone(machine)
            whole = b"".join(part.body for part in parts).decode()
            told = [other.key.tag for other in machines if f"{other.key.tag}." in whole]
            assert told == [machine.key.tag]
