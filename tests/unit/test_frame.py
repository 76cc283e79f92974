"""End frames: read back whole from any console, and from nothing else."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puter_client.contract.result import Result
from puter_worker.ec2.frame import Frame, read_frame
from tests.frames import lines_of

NONCE = "0123456789abcdef"
HEAD = b"v=1\nresult=failed\nexit_code=3\nstarted_at=100\nfinished_at=160\nreason=a = b\noutput_bytes=12\n"
CONTENT = HEAD + b"\nhello\n\nworld\n"
WHOLE = Frame(
    result=Result.FAILED,
    exit_code=3,
    started_at=100,
    finished_at=160,
    reason="a = b",
    output="hello\n\nworld\n",
    output_bytes=12,
)


LINES = lines_of(CONTENT, NONCE, 40)


def test_a_whole_frame_is_read() -> None:
    assert read_frame("\n".join(LINES), NONCE) == WHOLE


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n[ 12.345678] kernel: oops\n", "\n\n"])
def test_other_lines_between_its_own_do_not_matter(end: str) -> None:
    assert read_frame("login: " + end.join(LINES) + end, NONCE) == WHOLE


def test_what_breaks_into_a_line_is_made_up_for_by_the_second_copy() -> None:
    first = [f"{line[:50]}[ 1.0] kernel: x\n{line[50:]}" if n % 2 else line for n, line in enumerate(LINES)]
    second = [line[:30] if n % 2 == 0 else line for n, line in enumerate(LINES)]

    assert read_frame("\n".join(first), NONCE) is None
    assert read_frame("\n".join([*first, *second]), NONCE) == WHOLE


@pytest.mark.parametrize("missing", range(len(LINES)))
def test_a_frame_that_lacks_a_line_is_none(missing: int) -> None:
    assert read_frame("\n".join(line for n, line in enumerate(LINES) if n != missing), NONCE) is None


def test_a_frame_of_another_nonce_is_none() -> None:
    assert read_frame("\n".join(lines_of(CONTENT, "f" * 16)), NONCE) is None


def test_lines_of_two_frames_are_not_mixed() -> None:
    other = lines_of(CONTENT.replace(b"hello", b"HELLO"), NONCE, 40)

    assert read_frame("\n".join([*LINES[:3], *other[3:]]), NONCE) is None
    assert read_frame("\n".join([*LINES[:3], *other]), NONCE) is not None


@pytest.mark.parametrize("at", range(0, len(LINES[0]), 3))
def test_a_changed_character_is_noticed(at: int) -> None:
    line = LINES[0]
    changed = line[:at] + ("x" if line[at] != "x" else "y") + line[at + 1 :]

    assert read_frame("\n".join([changed, *LINES[1:]]), NONCE) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"result=failed\nexit_code=3\n\n",
        b"v=2\nresult=failed\nexit_code=3\n\n",
        b"v=1\nresult=lost\nexit_code=3\n\n",
        b"v=1\nresult=great\nexit_code=3\n\n",
        b"v=1\nresult=failed\n\n",
        b"v=1\nresult=failed\nexit_code=256\n\n",
        b"v=1\nresult=failed\nexit_code=-1\n\n",
        "v=1\nresult=failed\nexit_code=\u0663\n\n".encode(),
        b"v=1\nresult=failed\nexit_code=3e0\n\n",
        b"v=1\nresult=\xff\nexit_code=3\n\n",
    ],
)
def test_a_content_of_another_form_is_none(content: bytes) -> None:
    assert read_frame("\n".join(lines_of(content, NONCE)), NONCE) is None


def test_a_clock_and_a_reason_may_be_anything() -> None:
    content = (
        b"v=1\nresult=stopped\nexit_code=0\nstarted_at=\nfinished_at=99999999999999\nreason=" + b"x" * 999 + b"\n\n\xff"
    )
    frame = read_frame("\n".join(lines_of(content, NONCE)), NONCE)

    assert frame is not None
    assert (frame.started_at, frame.finished_at, len(frame.reason or ""), frame.output) == (None, None, 300, "\ufffd")


@given(st.text(max_size=400))
def test_any_text_is_no_frame(text: str) -> None:
    assert read_frame(text, NONCE) is None


@given(st.binary(max_size=300))
def test_any_output_comes_back(output: bytes) -> None:
    content = b"v=1\nresult=succeeded\nexit_code=0\n\n" + output
    frame = read_frame("\n".join(lines_of(content, NONCE)), NONCE)

    assert frame is not None
    assert frame.output == output.decode(errors="replace")


def test_full_consoles_are_read_in_a_moment_whatever_they_hold() -> None:
    dice = random.Random(9)
    consoles = [
        "\n" * 65_536,
        "puter:frame " * 5_461,
        ("puter:frame " + NONCE + " ") * 2_200,
        "".join(f"puter:frame {NONCE} {dice.randrange(16**12):012x} 1/80 AAAA 00000000\n" for _ in range(1_000)),
        "\n".join(line for n in range(40) for line in lines_of(b"%d" % n * 900, NONCE)),
        dice.randbytes(65_536).decode(errors="replace"),
    ]

    assert [read_frame(console, NONCE) for console in consoles] == [None] * len(consoles)
