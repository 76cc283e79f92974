"""Filters of Describe calls: `*` and `?` are wildcards, `\\` escapes; filters are anded, their values ored.

Rules: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Generic, Protocol, TypeVar

from tests.ec2sim.errors import Ec2Error
from tests.ec2sim.wire import Params

# AWS's pages say so of a filter, its message of a call: the stricter one.
MAX_VALUES = 200
_WILD = re.compile(r"[*?\\]")


class Tagged(Protocol):
    """Anything with tags as a Describe shows them."""

    @property
    def shown_tags(self) -> Mapping[str, str]: ...


Row = TypeVar("Row", bound=Tagged)
Values = Collection[str]
Field = Callable[[Row], Values]


def pattern(value: str) -> re.Pattern[str]:
    """The expression that a value with wildcards stands for."""
    parts: list[str] = []
    letters = iter(value)
    for letter in letters:
        if letter == "\\":
            parts.append(re.escape(next(letters, "\\")))
        else:
            parts.append({"*": ".*", "?": "."}.get(letter) or re.escape(letter))
    return re.compile("".join(parts), re.DOTALL)


class Matcher:
    """The values of one filter."""

    __slots__ = ("_exact", "_patterns")

    def __init__(self, values: Iterable[str]) -> None:
        self._exact: set[str] = set()
        self._patterns: list[re.Pattern[str]] = []
        for value in values:
            if _WILD.search(value):
                self._patterns.append(pattern(value))
            else:
                self._exact.add(value)

    def matches(self, values: Values) -> bool:
        """Whether any of the values is one of the filter's."""
        for value in values:
            if value in self._exact:
                return True
            if self._patterns and any(p.fullmatch(value) for p in self._patterns):
                return True
        return False


class Filters(Generic[Row]):
    """All filters of one call."""

    __slots__ = ("_tests",)

    def __init__(self, params: Params, fields: Mapping[str, Field[Row]], *, most: int = MAX_VALUES) -> None:
        """Reads `Filter.N`; `most`: values of all filters together.

        Raises:
            Ec2Error: a filter is unknown or has no values, or all together have more than EC2 takes.
        """
        self._tests: list[tuple[Matcher, Field[Row]]] = []
        left = most
        for section in params.sections("Filter"):
            name, values = section.need("Name"), section.texts("Value")
            left -= len(values)
            if left < 0:
                message = f"The maximum number of filter values specified on a single call is {most}"
                raise Ec2Error("FilterLimitExceeded", message)
            if not values:
                raise Ec2Error("InvalidParameterValue", f"The filter '{name}' needs at least one value")
            self._tests.append((Matcher(values), _field(name, fields)))

    def match(self, row: Row) -> bool:
        """Whether every filter lets the row through."""
        return all(matcher.matches(field(row)) for matcher, field in self._tests)


def _field(name: str, fields: Mapping[str, Field[Row]]) -> Field[Row]:
    if name.startswith("tag:"):
        key = name[4:]
        return lambda row: (row.shown_tags[key],) if key in row.shown_tags else ()
    if name == "tag-key":
        return lambda row: row.shown_tags.keys()
    if name == "tag-value":
        return lambda row: list(row.shown_tags.values())
    try:
        return fields[name]
    except KeyError:
        raise Ec2Error("InvalidParameterValue", f"The filter '{name}' is invalid") from None
