"""Requests as an attacker would append them to an inbox: without end, the same ones for the same seed.

Some are valid, with all fields at their limits; most are nearly so. Each kind is aimed at something that could cost
more than the length of what is written, or be told as a defect: lists, mappings, depth, numbers, characters that are
drawn or compared in special ways, regular expressions, MIME, YAML, broken JSON.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from puter_client.contract.request import MAX_REQUEST_BYTES

Fields = dict[str, Any]
Kind = Callable[[random.Random], bytes]

_encode = msgspec.json.Encoder().encode
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPx8Tn8wJmVvLq1uwRWhGtg5zT8p7xyk8vJ4k8jVvq3Z me"
TYPES = ("up", "cancel", "stop", "extend", "console", "UP", "", "launch")
STRANGE = (
    "", " ", "\0", "\x1b[2J", "\u202e", "\ufeff", "a\u0301" * 200, "\U0010ffff", "é", "\x7f", "\u2028",
    "../../x", "'; DROP", "$(reboot)", "{{ x }}", "%s%n", "-1", "NaN", "null", "true", "*", "?", "a" * 129, "A" * 40,
    "0" * 40, "puter-v1", "::/0", "0.0.0.0/0", "fe80::1%eth0", "1.2.3.4/00", "٣", "²", "ami-", "sg-1", "\r\n", "\t",
)  # fmt: skip
NUMBERS = (
    "0", "-0", "-1", "1", "59", "60", "101", "1e3", "1e999", "-1e308", "1.5", "0.1e-400", "NaN", "Infinity", "01", "+1",
    str(2**31), str(2**63), str(2**64), "9" * 300, "9" * 5_000, "1" + "0" * 4_000, "true", "null", '"7"', "[]", "{}",
)  # fmt: skip
FIELDS = (
    "profile", "region", "instance_type", "instance_types", "os", "ami", "ssh_user", "subnet", "subnets", "spot",
    "alone", "disk", "instance_profile", "run", "on_exit", "retries", "retry_on", "docker", "env", "user_data",
    "give_up_after_s", "ttl_s", "ssh_from", "key_name", "public_key", "private_key_path", "security_group_name",
    "aws_tags", "unknown",
)  # fmt: skip


def hostile_requests(seed: int) -> Iterator[bytes]:
    """Requests of all kinds in turn, without end; none is larger than a worker reads."""
    for _, request in kinds_of_requests(seed):
        yield request


def kinds_of_requests(seed: int) -> Iterator[tuple[str, bytes]]:
    """The same, each with the name of its kind."""
    dice = random.Random(seed)
    while True:
        for kind in KINDS:
            request = kind(dice)
            if len(request) > MAX_REQUEST_BYTES:
                request = request[:MAX_REQUEST_BYTES]  # broken JSON of the largest size
            yield kind.__name__.strip("_"), request


def up(dice: random.Random, spec: Fields | None = None, **changes: Any) -> bytes:
    """An `up` request that is valid as far as these fields are."""
    base: Fields = {"ssh_from": ["192.0.2.7/32"], "public_key": KEY, "region": "us-east-1"}
    return _encode(_around(dice) | {"type": "up", "spec": base | (spec or {}), "size": 1, "origin": "submit"} | changes)


def _around(dice: random.Random) -> Fields:
    return {"tag": f"job-{dice.randrange(50)}", "batch": f"b-{dice.randrange(1_000)}", "user": "mallory"}


def _length(dice: random.Random) -> int:
    """Small, at a limit, one more, or as much as fits."""
    limits = (1, 2, 10, 20, 64, 100, 128, 255, 256, 1_000, 4_096, 16_384, 50_000, 350_000)
    return max(0, dice.choice(limits) + dice.choice((-1, 0, 0, 1)))


def _text(dice: random.Random) -> str:
    piece = dice.choice((*STRANGE, "a", "x ", "é", "a\u0301", "\\", '"', "\x01", "us-east-", "1", "/", ".", ":"))
    return (piece * (_length(dice) // max(1, len(piece)) + 1))[:100_000] if dice.random() < 0.7 else piece


def _value(dice: random.Random) -> Any:
    count = min(_length(dice), 30_000)
    choices: tuple[Callable[[], Any], ...] = (
        lambda: _text(dice),
        lambda: [_text(dice)[:50] for _ in range(min(count, 300))],
        lambda: {f"K{n}": _text(dice)[:50] for n in range(min(count, 300))},
        lambda: [str(n) for n in range(count)],
        lambda: {f"K{n}": "" for n in range(count)},
        lambda: dice.choice((None, True, False, 0, -1, 2**63, 1.5, [], {}, [[]], {"": {}})),
    )
    return dice.choice(choices)()


# -- kinds ---


def _one_field_is_anything(dice: random.Random) -> bytes:
    return up(dice, {dice.choice(FIELDS): _value(dice)})


def _several_fields_are_anything(dice: random.Random) -> bytes:
    return up(dice, {name: _value(dice) for name in dice.sample(FIELDS, 4)})


def _around_the_spec_is_anything(dice: random.Random) -> bytes:
    names = ("tag", "batch", "user", "size", "max_parallel", "max_fails", "origin", "given", "v", "again", "type", "x")
    return up(dice, **{dice.choice(names): _value(dice)})


def _numbers(dice: random.Random) -> bytes:
    places = (
        (up(dice, size=777), b"777"),
        (up(dice, max_fails=777), b"777"),
        (up(dice, {"ttl_s": 777}), b"777"),
        (up(dice, {"disk": 777}), b"777"),
        (_encode(_around(dice) | {"type": "extend", "add_s": 777}), b"777"),
        (_encode(_around(dice) | {"type": "extend", "expires_at": 777}), b"777"),
    )
    request, place = dice.choice(places)
    return request.replace(place, dice.choice(NUMBERS).encode())


def _other_types(dice: random.Random) -> bytes:
    request = _around(dice) | {"type": dice.choice(TYPES)}
    if dice.random() < 0.5:
        request[dice.choice(("tag", "batch", "user", "expires_at", "add_s", "spec"))] = _value(dice)
    return _encode(request)


def _all_at_their_limits(dice: random.Random) -> bytes:
    """Valid, and as large as a request can be."""
    filler = dice.choice(("x", "\x01", "é", '"', "\\"))
    most = 16_384 // len(filler.encode())
    spec = {
        "instance_type": "t3.micro",
        "instance_types": [f"t{n}.large" for n in range(9)],
        "subnet": "subnet-0123456789abcdef0",
        "subnets": [f"subnet-{n:08x}" for n in range(9)],
        "run": filler * most,
        "retry_on": sorted(["failed", "timed_out", *map(str, range(1, 256))]),
        "retries": 100,
        "env": {f"A{n}": filler for n in range(500)},
        "user_data": "#!" + filler * (most - 2),
        "ssh_from": sorted(f"2001:db8:{n:x}::/{dice.randrange(48, 128)}" for n in range(1, 21)),
        "key_name": "k" * 255,
        "security_group_name": "g" * 255,
        "private_key_path": "/" * 4_096,
        "aws_tags": {f"{n:02}" + "𐍈" * 125: "𐍈" * 256 for n in range(20)},
        "profile": "p" * 128,
    }
    given = ["ttl"] * 100
    return up(dice, spec, tag="t" * 128, user="𐍈" * 64, batch="b" * 40, size=100_000, max_fails=100_000, given=given)


def _many_addresses(dice: random.Random) -> bytes:
    count = dice.choice((19, 20, 21, 1_000, 24_000))
    start = dice.randrange(2**24)
    four = [f"10.{(start + n) >> 16 & 255}.{(start + n) >> 8 & 255}.{(start + n) & 255}/32" for n in range(count)]
    six = [f"2001:db8:{(start + n) & 0xFFFF:x}::/64" for n in range(count)]
    return up(dice, {"ssh_from": dice.choice((sorted(set(four)), four, six, [*four[:10], "x"]))})


def _mime(dice: random.Random) -> bytes:
    count = dice.choice((1, 15, 16, 17, 300, 4_000))
    head = "Content-Type: multipart/mixed; boundary="
    script = "\nContent-Type: text/x-shellscript\n\n#!/bin/sh\n"
    texts: tuple[Callable[[], str], ...] = (
        lambda: "".join(f'{head}"b{n}"\n\n--b{n}\n' for n in range(count)),
        lambda: f"{head}b\n\n" + f"--b{script}" * count + "--b--\n",
        lambda: f"{head}b\n\n" + "--b\n\n" * count,
        lambda: f"{head}b\n" + "X-Y: z\n" * count + f"\n--b{script}--b--\n",
        lambda: f"{head}b; " + "".join(f"a*{n}=x;" for n in range(count)) + f"\n\n--b{script}--b--\n",
        lambda: head + ';"' * count + "\n\n",
        lambda: head + "b" * count + "\n\n--" + "b" * count + script,
        lambda: f"{head}b\n" + " x\n" * count,
        lambda: f"{head}b\n\n--b\nContent-Transfer-Encoding: base64\n\n" + "IyEv" * count + "\n--b--\n",
        lambda: f"{head}b\n\n--b\nContent-Transfer-Encoding: quoted-printable\n\n" + "=23=21" * count + "\n--b--\n",
        lambda: f"{head}b\n\n--b\nContent-Disposition: a; " + "".join(f"filename*{n}=x;" for n in range(60)) + script,
    )
    return up(dice, {"user_data": dice.choice(texts)()[: dice.choice((16_384, 16_000, 20_000))]})


def _yaml(dice: random.Random) -> bytes:
    count = dice.choice((10, 49, 51, 400, 900, 8_000))
    texts = (
        "a: " + "[" * count + "]" * count,
        "a: {" + "a," * count + "}",
        "a:\n" + "- a\n" * count,
        "a:\n  " + "- " * count,
        "a: [" + "[]," * count + "]",
        "? a\n" * count,
        "---\n" * count,
        "a: [" + "&a b," * count + "]",
        "a: &a [b]\nc: [" + "*a," * count + "]",
        "a: |\n" + "  #!/bin/sh\n" * count,
        'a: "' + "\\x41" * count + '"',
        "a" * count + ": b",
        "a:\n" + " " * count,
        "%TAG ! x,2000:\n" * count + "---\na: b",
        "".join(f"k{n}: {{a: [b]}}\n" for n in range(count)),
        '"launch-index\n' * count,
    )
    body = "#cloud-config\n" + dice.choice(texts)
    if dice.random() < 0.3:
        part = f"--b\nContent-Type: text/cloud-config\n\n{body[:900]}\n"
        body = "Content-Type: multipart/mixed; boundary=b\n\n" + part * 16 + "--b--\n"
    return up(dice, {"user_data": body[:16_384]})


def _regular_expressions(dice: random.Random) -> bytes:
    """Nearly what a pattern takes, as long as possible."""
    size = _length(dice)
    texts = {
        "public_key": "ssh-rsa " + "A" * size + " " + "x" * 300,
        "profile": "p" * size + "/",
        "region": "us-east-" * (size // 8),
        "instance_type": "a" * 30 + "." + "a-" * size,
        "security_group_name": "g" * size + "%",
        "key_name": "k" * size + "é",
        "ami": "ami-" + "0" * size,
        "private_key_path": "/" * size + "\n",
    }
    name = dice.choice(list(texts))
    return up(dice, {name: texts[name][:350_000]})


def _deep(dice: random.Random) -> bytes:
    begin, end = dice.choice(((b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")))
    depth = dice.choice((10, 500, 1_000, 60_000))
    inside = begin * depth + dice.choice((b"1", b"")) + end * dice.choice((depth, 0))
    wrapped = (b'{"type":"up","spec":%s}', b'{"x":%s,"type":"up"}', b"%s", b'{"type":"up","spec":{"env":{"A":%s}}}')
    return dice.choice(wrapped) % inside


def _wide(dice: random.Random) -> bytes:
    pieces = (b"1,", b'"",', b"null,", b"[],", b"{},", b'"\\\\",', b"0.1e1,", b"9" * 20 + b",", b" ")
    inside = dice.choice(pieces) * dice.choice((100, 40_000, 190_000))
    wrapped = (b'{"x":[%s1],"type":"up"}', b'{"type":"up","given":[%s""]}', b'{"type":"up","spec":{"ssh_from":[%s""]}}')
    return dice.choice(wrapped) % inside[: MAX_REQUEST_BYTES - 100]


def _broken(dice: random.Random) -> bytes:
    whole = bytearray(dice.choice((_all_at_their_limits, _yaml, _one_field_is_anything))(dice))
    for _ in range(dice.randrange(1, 20)):
        whole[dice.randrange(len(whole))] = dice.randrange(256)
    return bytes(whole[: dice.randrange(len(whole) + 1)] if dice.random() < 0.5 else whole)


def _same_key_twice(dice: random.Random) -> bytes:
    name = dice.choice(("tag", "spec", "type"))
    return up(dice)[:-1] + b',"%s":%s}' % (name.encode(), _encode(_value(dice)))


def _bytes(dice: random.Random) -> bytes:
    return dice.choice(
        (b"", b"\xff" * 100, b"\0", dice.randbytes(1_000), b"\x1f\x8b\x08" + dice.randbytes(500), b" " * 9)
    )


KINDS: tuple[Kind, ...] = (
    _one_field_is_anything, _several_fields_are_anything, _around_the_spec_is_anything, _numbers, _other_types,
    _all_at_their_limits, _many_addresses, _mime, _yaml, _regular_expressions, _deep, _wide, _broken, _same_key_twice,
    _bytes,
)  # fmt: skip
