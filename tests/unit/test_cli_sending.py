"""Requests about tags that exist, followed: what a command says meanwhile where no terminal is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

import pytest

from puter_client.cli.sending import Sending
from puter_client.timings import ClientTimings
from puter_client.view import View

if TYPE_CHECKING:
    from puter_client.client import PuterClient


class Limit:
    """Is over when it was asked so often."""

    def __init__(self, asked: int) -> None:
        self._left = asked

    @property
    def is_over(self) -> bool:
        self._left -= 1
        return self._left < 0

    def restart(self) -> None:
        """Nothing: it counts questions."""


class Client:
    """Knows one tag, of which nothing is known."""

    namespace = "betty"
    timings = ClientTimings(look_every_s=0.0, progress_line_s=0.0)

    def __init__(self, looks: int) -> None:
        self._limits: Iterator[Limit] = iter((Limit(looks), Limit(1_000)))

    def limit(self, _: float) -> Limit:
        """The first is that of quiet, the second that of what is not known."""
        return next(self._limits)

    async def views(self, tags: Sequence[str]) -> list[View]:
        """As asked."""
        return [View(namespace="betty", tag=tag) for tag in tags]


@pytest.mark.parametrize(
    ("says", "lines"),
    [
        (["0 of 1"] * 4, ["puter: 0 of 1"]),
        (["0 of 2", "0 of 2", "1 of 2", "1 of 2"], ["puter: 0 of 2", "puter: 1 of 2"]),
    ],
)
def test_a_line_of_progress_is_written_when_it_has_changed(
    says: list[str], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    told = iter([word for word in says for _ in range(2)])  # asked for twice a look: for the change, and for the line

    async def send(_: list[str]) -> None:
        return

    sending = Sending(
        cast("PuterClient", Client(len(says))),
        ["one"],
        None,
        1,
        send=send,
        is_open=lambda _: True,
        says=lambda _: next(told, says[-1]),
        quiet_s=1.0,
    )
    asyncio.run(sending.answered())

    assert capsys.readouterr().err.splitlines() == lines
