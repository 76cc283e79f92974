"""A policy in plain words, and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from puter_client.policy.policy import EVERYONE, Allowed, Policy
from puter_client.policy.rules import RULES


def lines(allowed: Allowed) -> Iterator[str]:
    """What a namespace may request: a line for each rule."""
    yield f"namespace {allowed.namespace}"
    width = max(len(rule.name) for rule in RULES)
    for rule in RULES:
        yield f"  {rule.name:<{width}}  {rule.explained(allowed.values)}"
    if allowed.lacking:
        yield f"  {_nothing(allowed)}"


def summary(policy: Policy) -> Iterator[str]:
    """What each table of a policy lets its namespaces do, in a line or two for each."""
    for name in (EVERYONE, *policy.namespaces):
        allowed = policy.of(name)
        whose = "every other namespace" if name == EVERYONE else f"namespace {name}"
        if allowed.lacking:
            yield f"{whose}: {_nothing(allowed)}"
        else:
            named = ("profiles", "regions", "instance_types", "most_machines", "most_vcpus", "longest_ttl")
            told = (rule.explained(allowed.values) for rule in RULES if rule.name in named)
            yield f"{whose}: {'; '.join(told)}"


def to_json(allowed: Allowed) -> dict[str, Any]:
    """What a namespace may request: `rules` has every rule's value (null: unlimited, or none) and its explanation."""
    return {
        "namespace": allowed.namespace,
        "rules": {
            rule.name: {"value": allowed.values[rule.name], "explained": rule.explained(allowed.values)}
            for rule in RULES
        },
        "lacking": list(allowed.lacking),
    }


def _nothing(allowed: Allowed) -> str:
    return f"can launch nothing, because these rules allow nothing: {', '.join(allowed.lacking)}"
