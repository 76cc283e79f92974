"""The tree of errors: what is drawn is what there is, and each error has a name of its own for programs."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from typing import ClassVar

import pytest

from puter_client.contract import errors
from puter_client.contract.duration import parse_duration_s
from puter_client.contract.errors import InvalidInput, PuterError
from puter_client.contract.key import check_namespace, check_tag
from puter_client.contract.userdata import check_user_data

# The packages whose errors are drawn, and where.
DRAWN_IN = {"puter_client": errors}
_LINE = re.compile(r"^(?P<indent>[│ ├└─]*)(?P<name>[A-Z]\w+) +exit (?P<exit>\d+): \S", re.MULTILINE)


def classes(package: str) -> dict[str, type[PuterError]]:
    """Every error that a package defines, by name."""
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: list[type[PuterError]] = [PuterError]
    for known in found:
        found += known.__subclasses__()
    return {known.__name__: known for known in found if known.__module__.partition(".")[0] == package}


def drawn(package: str) -> dict[str, tuple[str | None, int]]:
    """Each error of the drawing: the one it is below, and its exit code."""
    above: list[str] = []
    found: dict[str, tuple[str | None, int]] = {}
    for line in _LINE.finditer(inspect.getdoc(DRAWN_IN[package]) or ""):
        depth = len(line["indent"]) // 4
        del above[depth:]
        found[line["name"]] = (above[-1] if above else None, int(line["exit"]))
        above.append(line["name"])
    return found


@pytest.mark.parametrize("package", DRAWN_IN)
def test_the_tree_is_drawn_as_it_is(package: str) -> None:
    there = {
        name: (None if known is PuterError else known.__mro__[1].__name__, known.exit_code)
        for name, known in classes(package).items()
    }

    assert drawn(package) == there


@pytest.mark.parametrize("package", DRAWN_IN)
def test_every_error_has_a_code_of_its_own(package: str) -> None:
    codes = [known.code for known in classes(package).values()]

    assert sorted(set(codes)) == sorted(codes)


def test_the_code_is_the_name_unless_the_class_says_otherwise() -> None:
    class Plain(InvalidInput):
        pass

    class Named(InvalidInput):
        code: ClassVar[str] = "AnotherName"

    assert (Plain.code, Named.code) == ("Plain", "AnotherName")


@pytest.mark.parametrize(
    ("check", "subject"),
    [
        (lambda: check_tag("a b"), "tag"),
        (lambda: check_namespace("A"), "namespace"),
        (lambda: parse_duration_s("60"), "duration"),
        (lambda: parse_duration_s("60", what="--timeout"), "--timeout"),
        (lambda: check_user_data("hello"), "user_data"),
    ],
)
def test_what_an_input_is_about_is_told_apart_from_what_is_wrong(check: object, subject: str) -> None:
    assert callable(check)
    with pytest.raises(InvalidInput) as caught:
        check()

    assert (caught.value.subject, str(caught.value)) == (subject, f"{subject} {caught.value.message}")
    assert caught.value.problems == (str(caught.value),)


def test_several_problems_are_a_line_each() -> None:
    error = InvalidInput("one", "two")

    assert (error.problems, str(error), error.message) == (("one", "two"), "one\ntwo", "one\ntwo")
