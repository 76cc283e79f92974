"""`--failed`, `--phase` and `--result`: which of the selected puters are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

import click

from puter_client.contract.key import shown
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.contract.result import Result
from puter_client.view import View

F = TypeVar("F", bound=Callable[..., Any])


class Filters(NamedTuple):
    """What a puter must be to be shown; each filter that is set must hold.

    Attributes:
        failed: only what has failed: the request, the machine or the workload.
        phases: only these phases; empty is all.
        results: only workloads with these results; empty is all.
    """

    failed: bool = False
    phases: frozenset[Phase] = frozenset()
    results: frozenset[Result] = frozenset()

    def let(self, view: View) -> bool:
        """Whether this one is shown."""
        if self.failed and not view.has_failed:
            return False
        if self.phases and _phase_of(view) not in self.phases:
            return False
        return not self.results or (view.is_taken and view.record is not None and view.record.result in self.results)


def _phase_of(view: View) -> Phase | None:
    """The phase of the view's own request; None if it launches nothing, so that the record is about another one."""
    if not view.is_taken:
        return Phase.QUEUED
    if view.launches_nothing:
        return Phase.CANCELLED if view.outcome is Outcome.CANCELLED else None
    return view.phase


def filter_options(function: F) -> F:
    """The three options, which the command gets as `failed`, `phases` and `results`."""
    for decorator in (
        click.option("--result", "results", help=f"Only with a result: {', '.join(Result)}.", **_several(Result)),
        click.option("--phase", "phases", help=f"Only in a phase: {', '.join(Phase)}.", **_several(Phase)),
        click.option("--failed", is_flag=True, help="Only what failed: the launch, the machine or its workload."),
    ):
        function = decorator(function)
    return function


def _several(words: type[StrEnum]) -> dict[str, Any]:
    def read(_ctx: click.Context, _param: click.Parameter, values: Sequence[str]) -> frozenset[StrEnum]:
        return frozenset(_word(words, word.strip()) for value in values for word in value.split(","))

    return {"multiple": True, "metavar": f"{words.__name__.upper()}[,…]", "callback": read}


def _word(words: type[StrEnum], word: str) -> StrEnum:
    try:
        return words(word)
    except ValueError:
        raise click.BadParameter(f"{shown(word)} is not one of {', '.join(words)}") from None
