"""A policy in plain words, and as JSON. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from puter_client.policy.names import DEFAULT_PROFILE
from puter_client.policy.policy import EVERYONE, Allowed, Policy
from puter_client.policy.rules import RULES

_LONGEST_LINE = 80
_SUMMED_UP = ("profiles", "regions", "instance_types", "most_machines", "most_vcpus", "longest_ttl")


def lines(policy: Policy, namespace: str) -> Iterator[str]:
    """What a namespace may request: the conclusion, where its rules are from, then a line for each rule."""
    allowed = policy.of(namespace)
    yield f"namespace {namespace}: {_conclusion(allowed)}"
    yield f"  {_whose_rules(policy, namespace)}"
    yield from (f"  {text}" for text in warnings(allowed))
    width = max(len(rule.name) for rule in RULES)
    for rule in RULES:
        table = policy.named_by(namespace, rule.name)
        mark = "-" if table is None else "*" if table == EVERYONE else "own"
        yield f"  {rule.name:<{width}}  {mark:<3}  {rule.explained(allowed.values)}"


def summary(policy: Policy) -> Iterator[str]:
    """What each table of a policy lets its namespaces do, in a line, or in several where it would be long."""
    for name in (EVERYONE, *policy.namespaces):
        allowed = policy.of(name)
        told = [rule.explained(allowed.values) for rule in RULES if rule.name in _SUMMED_UP]
        line = f"{whose(name)}: {'; '.join(told)}"
        if allowed.lacking:
            yield f"{whose(name)}: {_conclusion(allowed)}"
        elif len(line) <= _LONGEST_LINE:
            yield line
        else:
            yield f"{whose(name)}:"
            yield from (f"  {text}" for text in told)


def whose(table: str) -> str:
    """For whom a table is."""
    return "every other namespace" if table == EVERYONE else f"namespace {table}"


def warnings(allowed: Allowed) -> Iterator[str]:
    """What is probably not meant: the file can be used."""
    if allowed.needs_a_profile:
        named = ", ".join(allowed.profiles)
        yield f"each request without --profile is refused: set {DEFAULT_PROFILE} to one of its profiles ({named})"


def to_json(policy: Policy, namespace: str) -> dict[str, Any]:
    """What a namespace may request, or by `*` every one without a table of its own.

    `rules` has every rule's value (null: unlimited, or none), its explanation, and the table that says so (null: none).
    """
    allowed = policy.of(namespace)
    return {
        "namespace": namespace,
        "own_table": namespace in policy.tables,
        "rules": {
            rule.name: {
                "value": allowed.values[rule.name],
                "explained": rule.explained(allowed.values),
                "table": policy.named_by(namespace, rule.name),
            }
            for rule in RULES
        },
        "lacking": list(allowed.lacking),
        "warnings": list(warnings(allowed)),
    }


def _conclusion(allowed: Allowed) -> str:
    if allowed.lacking:
        return f"can launch nothing, because these rules allow nothing: {', '.join(allowed.lacking)}"
    return "can launch machines"


def _whose_rules(policy: Policy, namespace: str) -> str:
    near = difflib.get_close_matches(namespace, policy.namespaces, n=1)
    perhaps = f" (did you mean {near[0]}?)" if near else ""
    match namespace in policy.tables, EVERYONE in policy.tables:
        case True, True:
            return "its own table says what is marked own, that of every namespace what is marked *"
        case True, False:
            return "its own table says what is marked own"
        case False, True:
            return f"it has no table of its own, all is from that of every namespace{perhaps}"
        case _:
            return f'it has no table of its own, and there is none of every namespace ("*"){perhaps}'
