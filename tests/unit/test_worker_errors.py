"""The worker's errors: their tree is as it is drawn, and each has a code of its own."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from typing import NamedTuple

import pytest

from puter_client.contract.errors import PuterError
from puter_worker import errors
from puter_worker.errors import Handling, StageError

_LINE = re.compile(r"^(?P<indent>[│ ├└─]*)(?P<name>[A-Z]\w+) {2,}(?P<meaning>\S.*)$", re.MULTILINE)


class Drawn(NamedTuple):
    """One line of the drawing: the error that it stands below, and what it means."""

    above: str | None
    meaning: str


def drawn() -> dict[str, Drawn]:
    """Every error of the drawing, by name; one that is drawn twice is an error of the drawing."""
    above: list[str] = []
    found: dict[str, Drawn] = {}
    for line in _LINE.finditer(inspect.getdoc(errors) or ""):
        depth = len(line["indent"]) // 4
        del above[depth:]
        assert line["name"] not in found
        found[line["name"]] = Drawn(above[-1] if above else None, line["meaning"])
        above.append(line["name"])
    return found


def subclasses(of: type[PuterError]) -> list[type[PuterError]]:
    """A class and everything below it, of the modules of both packages, tests' own left out."""
    for package in ("puter_client", "puter_worker"):
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    found = [of]
    for known in found:
        found += known.__subclasses__()
    return [known for known in found if known.__module__.startswith(("puter_client", "puter_worker"))]


def of_the_worker() -> list[type[PuterError]]:
    return [known for known in subclasses(PuterError) if known.__module__.startswith("puter_worker")]


def test_the_tree_is_drawn_as_it_is() -> None:
    there = {
        known.__name__: None if known is StageError else known.__mro__[1].__name__ for known in subclasses(StageError)
    }

    assert {name: line.above for name, line in drawn().items()} == there


def test_every_error_of_the_worker_is_in_the_tree_and_in_one_module() -> None:
    assert set(of_the_worker()) == set(subclasses(StageError))
    assert {known.__module__ for known in of_the_worker()} == {errors.__name__}


@pytest.mark.parametrize("known", subclasses(StageError), ids=lambda known: known.__name__)
def test_each_error_means_what_is_drawn_beside_it(known: type[PuterError]) -> None:
    told = " ".join((inspect.getdoc(known) or "").partition("\n\n")[0].split())

    # What is to be done about it, its own docstring may say further on.
    assert told.lower().startswith(drawn()[known.__name__].meaning.lower())


def test_no_two_errors_of_puter_have_the_same_code() -> None:
    codes = [known.code for known in subclasses(PuterError)]

    assert sorted(set(codes)) == sorted(codes)


@pytest.mark.parametrize("known", subclasses(StageError), ids=lambda known: known.__name__)
def test_each_error_has_its_own_code_and_a_way_to_handle_it(known: type[StageError]) -> None:
    assert known.code == known.__name__
    assert isinstance(known.default_handling, Handling)
