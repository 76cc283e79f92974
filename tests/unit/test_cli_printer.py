"""What programs have printed, on a terminal and elsewhere, in whichever pieces it comes."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puter_client.cli.printer import LONGEST_LINE, Printer
from puter_client.cli.tails import last_lines
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.contract.result import Result

BYTES = st.lists(
    st.sampled_from([b"a", b"\r", b"\n", b"\t", b"\x1b[2J", b"\xc3", b"\xa9", b"\xff", b"\x00"]), max_size=20
)


class Stream(io.TextIOWrapper):
    """A stream in memory, which may say that it is a terminal."""

    def __init__(self, *, terminal: bool) -> None:
        self.held = io.BytesIO()
        self._terminal = terminal
        super().__init__(self.held, encoding="utf-8", newline="\n")

    def isatty(self) -> bool:
        return self._terminal


def printed(pieces: Sequence[bytes], tag: str | None = None, *, terminal: bool, width: int = 0) -> bytes:
    """What a printer writes that gets these pieces."""
    stream, before = Stream(terminal=terminal), sys.stdout
    sys.stdout = stream
    try:
        printer = Printer(tag, width=width)
        for piece in pieces:
            printer.write(piece)
        printer.end()
    finally:
        sys.stdout = before
    stream.flush()
    return stream.held.getvalue()


@given(BYTES)
def test_a_file_gets_the_very_bytes(pieces: list[bytes]) -> None:
    assert printed(pieces, terminal=False) == b"".join(pieces)


@pytest.mark.parametrize("terminal", [True, False])
@given(pieces=BYTES, tag=st.sampled_from([None, "one"]))
def test_pieces_do_not_matter(pieces: list[bytes], tag: str | None, *, terminal: bool) -> None:
    assert printed(pieces, tag, terminal=terminal) == printed([b"".join(pieces)], tag, terminal=terminal)


@given(BYTES)
def test_a_terminal_gets_nothing_that_it_obeys(pieces: list[bytes]) -> None:
    lines = printed(pieces, terminal=True).decode().split("\n")
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"a\tb\n", b"a       b\n"),
        (b"a\r\nb", b"a\nb\n"),
        (b"1%\r2%\rdone\n", b"1%\n2%\ndone\n"),
        (b"a\n\nb\n", b"a\n\nb\n"),
        (b"  indented\n", b"  indented\n"),
        ("caf\u00e9 \u6f22\n".encode(), "caf\u00e9 \u6f22\n".encode()),
        (b"\xff", "\ufffd\n".encode()),
    ],
)
def test_lines_on_a_terminal(data: bytes, shown: bytes) -> None:
    assert printed([data], terminal=True) == shown


@pytest.mark.parametrize("terminal", [True, False])
def test_each_line_begins_with_its_tag(terminal: bool) -> None:
    assert printed([b"a\nb"], "one", terminal=terminal, width=5) == b"one   | a\none   | b\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_what_has_no_line_ends_is_shown_in_pieces(terminal: bool) -> None:
    text = b"x" * (2 * LONGEST_LINE + 10)
    told = printed([text[:LONGEST_LINE], text[LONGEST_LINE:]], "one", terminal=terminal).split(b"\n")
    assert b"".join(line.removeprefix(b"one | ") for line in told) == text
    assert len(told) > 2


class TestLastLines:
    def record(self, tail: str | None, result: Result | None = Result.FAILED) -> Record:
        return Record(
            namespace="b", tag="one", phase=Phase.TERMINATED, created_at=0, changed_at=0, log_tail=tail, result=result
        )

    def test_each_is_marked_and_safe(self) -> None:
        told = last_lines(self.record("  a\tb\nc\x1b[2J\n50%\r100%\n\n"))
        assert told == ["|   a     b", "| c\ufffd[2J", "| 50%", "| 100%"]

    def test_only_so_many_are_told(self) -> None:
        assert last_lines(self.record("a\nb\nc"), 2) == ["| b", "| c"]

    def test_what_redis_may_hold_has_an_end(self) -> None:
        assert sum(map(len, last_lines(self.record("x" * 10**6)))) < 2_000

    @pytest.mark.parametrize("result", [None, Result.SUCCEEDED])
    def test_what_has_not_failed_has_none(self, result: Result | None) -> None:
        assert last_lines(self.record("a", result)) == []

    def test_where_nothing_is_known_there_are_none(self) -> None:
        assert [last_lines(self.record(None)), last_lines(None), last_lines(self.record("\n\n"))] == [[], [], []]
