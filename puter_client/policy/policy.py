"""The decision: what a policy allows a namespace, and what it refuses of a request. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from puter_client.contract.spec import Spec
from puter_client.policy.names import DEFAULT_CREDENTIALS, DEFAULT_PROFILE, PROFILES
from puter_client.policy.rule import About, Asked, Refusal
from puter_client.policy.rules import BY_NAME, RULES

EVERYONE = "*"
"""The table whose rules hold for every namespace, as far as its own table does not say otherwise."""

MACHINE = frozenset({About.TARGET, About.MACHINE, About.ACCESS, About.LIFE, About.COUNT})
"""What is asked of a request that would launch a machine."""


class Allowed(msgspec.Struct, frozen=True):
    """What one namespace may request.

    Attributes:
        namespace: which one.
        values: the value of every rule.
    """

    namespace: str
    values: Mapping[str, Any]

    def limit(self, rule: str) -> int | None:
        """The value of a rule that is a number; None: there is no limit."""
        value: int | None = self.values[rule]
        return value

    @property
    def profiles(self) -> tuple[str, ...]:
        """The AWS profiles that it may name."""
        named: tuple[str, ...] = self.values[PROFILES]
        return named

    def profile_of(self, spec: Spec) -> str:
        """The profile that a request is launched with; "" is the default credentials of the worker's host."""
        return spec.profile or self.values[DEFAULT_PROFILE] or ""

    def refusals(self, asked: Asked, about: Collection[About] = MACHINE) -> tuple[Refusal, ...]:
        """What is not allowed of a request, in the order of the rules; () if all is.

        `about`: which rules are asked.
        """
        return tuple(
            self.refusal(rule.name, value)
            for rule in RULES
            if rule.about in about
            for value in rule.refused(self.values, asked)
        )

    def refusals_of_life(self, life_s: int | None) -> tuple[Refusal, ...]:
        """What is not allowed of a machine that ends so many seconds after its launch; None: it never does."""
        asked = Asked(spec=msgspec.structs.replace(Spec(), ttl_s=life_s), profile="")
        return self.refusals(asked, {About.LIFE})

    def refusal(self, rule: str, value: str) -> Refusal:
        """The refusal of a value by a rule."""
        return Refusal(rule=rule, value=value, allowed=BY_NAME[rule].shown(self.values), namespace=self.namespace)

    @property
    def needs_a_profile(self) -> bool:
        """Whether each request without a profile is refused, although those with one are not."""
        stands_for_it = self.values[DEFAULT_PROFILE] is not None or self.values[DEFAULT_CREDENTIALS]
        return bool(self.profiles) and not stands_for_it and not self.lacking

    @property
    def lacking(self) -> tuple[str, ...]:
        """The rules because of which it can launch nothing at all."""
        found = [rule.name for rule in RULES if rule.must and rule.is_nothing(self.values)]
        if not self.profiles and not self.values[DEFAULT_CREDENTIALS]:
            found.insert(0, PROFILES)
        if not self.values["images"] and not self.values["image_owners"]:
            found.append("images")
        return tuple(found)


class Policy(msgspec.Struct, frozen=True):
    """A policy as its file says it.

    Attributes:
        tables: the values that each table names, by the namespace or `*`.
    """

    tables: Mapping[str, Mapping[str, Any]]

    def of(self, namespace: str) -> Allowed:
        """What a namespace may request: its own table, then that of `*`; a rule that neither names allows nothing."""
        nothing = {rule.name: rule.kind.nothing for rule in RULES}
        own = self.tables.get(namespace, {})
        return Allowed(namespace, nothing | dict(self.tables.get(EVERYONE, {})) | dict(own))

    def named_by(self, namespace: str, rule: str) -> str | None:
        """The table that says what a rule is for a namespace: its own, or `*`; None: neither does."""
        return next((table for table in (namespace, EVERYONE) if rule in self.tables.get(table, {})), None)

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The namespaces that have a table of their own."""
        return tuple(sorted(name for name in self.tables if name != EVERYONE))
