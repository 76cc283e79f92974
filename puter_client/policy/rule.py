"""What it takes to declare one rule of a policy: how it is written, explained and decided."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import msgspec

from puter_client.contract.spec import Spec
from puter_client.policy.values import Kind

MOST_TEXT = 300
"""Characters of a refusal up to which it names all that is allowed; a longer one names some of it."""
_SOME_TEXT = 80
_SEPARATORS = (", ", "; ")
_MOST_VALUE = 80

Values = Mapping[str, Any]
"""The value of every rule for one namespace, by the rule's name."""


class Image(msgspec.Struct, frozen=True):
    """Who owns the image of a launch, as EC2 says.

    Attributes:
        owner_id: the account; "" if the worker may not look at images.
        alias: EC2's alias of the account, such as `amazon`.
        own: whether it is the account that the machine is launched in.
    """

    owner_id: str
    alias: str | None = None
    own: bool = False


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One machine as it is requested, as far as that is known at the time of the decision.

    Attributes:
        spec: what is requested.
        profile: the AWS profile that it is launched with; "" is the worker's default credentials.
        region: where; None: neither the request nor anybody else has said it yet.
        image: whose image it boots; None: EC2 was not asked yet.
        vcpus: how many vCPUs the machine has, the smallest of several types; None: EC2 was not asked yet.
    """

    spec: Spec
    profile: str
    region: str | None = None
    image: Image | None = None
    vcpus: int | None = None


class About(Enum):
    """What a rule is about, which says when it is asked."""

    MACHINE = auto()
    """The machine that a request would launch."""
    ACCESS = auto()
    """Who may reach a machine: asked of a request for a machine that exists, too."""
    LIFE = auto()
    """How long a machine lives: asked of an order to end it later, too."""
    TARGET = auto()
    """With which credentials and where: asked before EC2 is asked for anything."""
    COUNT = auto()
    """How many a namespace may have at a time."""
    DEFAULT = auto()
    """Nothing is refused by it: it stands for what a request leaves out."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The declaration of one rule.

    Attributes:
        name: its key in a policy file.
        about: see About.
        kind: how its value is written and shown.
        allows: what a value that allows something means, with `{}` for the value.
        forbids: what a value that allows nothing means.
        unlimited: what no limit means, of a rule that may have none.
        refused: the requested values that these values of all rules do not allow, as people read them.
        allowed: what is allowed instead; None shows the rule's own value.
        must: whether a namespace can launch nothing at all where the rule allows nothing.
    """

    name: str
    about: About
    kind: Kind
    allows: str
    forbids: str
    unlimited: str = ""
    refused: Callable[[Values, Asked], Iterable[str]] = lambda values, asked: ()
    allowed: Callable[[Values], str] | None = None
    must: bool = False

    def is_nothing(self, values: Values) -> bool:
        """Whether these values allow nothing of what the rule is about."""
        return bool(values[self.name] == self.kind.nothing)

    def shown(self, values: Values) -> str:
        """What is allowed, as a refusal says it."""
        if self.allowed is not None:
            return self.allowed(values)
        return "nothing" if self.is_nothing(values) else self.kind.show(values[self.name])

    def explained(self, values: Values) -> str:
        """What the rule means for a namespace, in plain words."""
        value = values[self.name]
        if self.is_nothing(values):
            return self.forbids
        return self.unlimited if value is None else self.allows.format(self.kind.show(value))


class Refusal(msgspec.Struct, frozen=True):
    """What a policy does not allow of a request.

    Attributes:
        rule: the rule's name.
        value: the requested value.
        allowed: what is allowed, in plain words.
        namespace: for which namespace.
    """

    rule: str
    value: str
    allowed: str
    namespace: str

    def __str__(self) -> str:
        whole = self._text(self.allowed)
        return whole if len(whole) <= MOST_TEXT else self._text(_some_of(self.allowed))

    def _text(self, allowed: str) -> str:
        value = self.value if len(self.value) <= _MOST_VALUE else f"{self.value[: _MOST_VALUE - 1]}…"
        return (
            f"not allowed by the workers' policy for namespace {self.namespace}: {value} "
            f"(rule {self.rule}; allowed: {allowed})"
        )


def _some_of(allowed: str) -> str:
    """The beginning of a long list, how many more it has, and where the whole of it is."""
    if len(allowed) <= _SOME_TEXT:
        return allowed
    # What stands before the last separator that fits; one entry alone may be too long.
    end = max(allowed.rfind(separator, 0, _SOME_TEXT + 1) for separator in _SEPARATORS)
    end = end if end > 0 else _SOME_TEXT
    more = sum(allowed.count(separator, end) for separator in _SEPARATORS)
    named = f"and {more:,} more" if more else "…"
    return f"{allowed[:end]} {named}: `puter admin policy explain` on the workers' host shows all"
