"""The policy in force in one worker: what each namespace may request, and what it was refused after intake."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from puter_client.contract.record import Record
from puter_client.contract.spec import Spec
from puter_client.policy.file import POLICY_VARIABLE, read_policy
from puter_client.policy.policy import EVERYONE, Allowed, Policy
from puter_client.policy.rule import About, Asked, Refusal

MOST_COUNTED = 10_000
OTHERS = "(others)"
POLICY = "policy: "
"""What the reason of a request begins with that a policy refuses; the rule's name follows, so that rules are summed."""


class Sums(msgspec.Struct, frozen=True):
    """What was refused of a namespace.

    Attributes:
        times: how often, by reason.
        examples: a whole sentence for each reason that has some: with the value, and with what is allowed.
    """

    times: dict[str, int] = {}
    examples: dict[str, str] = {}


class Rules:
    """The policy of a worker; without one, all is allowed.

    Attributes:
        policy: the policy in force; None: there is none.
    """

    def __init__(self, path: Path | None = None, *, shared: bool = False) -> None:
        """`path`: the file, None: there is none; `shared`: whether the worker serves a shared Redis.

        Raises:
            InvalidInput: the file cannot be used.
        """
        self._path = path
        self._shared = shared
        self._seen = self._stamp()
        self.policy: Policy | None = None if path is None else self._read()
        self._counted: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], str] = {}

    @property
    def refuses_programs(self) -> bool:
        """Whether no profile may be used whose credentials a program gives: nobody has said who may run it."""
        return self._shared and self.policy is None

    @property
    def is_missing(self) -> bool:
        """Whether a worker of a shared Redis has no policy."""
        return self._shared and self.policy is None

    def of(self, namespace: str) -> Allowed | None:
        """What a namespace may request; None: all."""
        return None if self.policy is None else self.policy.of(namespace)

    def refused(self, refusal: Refusal, times: int = 1) -> None:
        """Count refusals by the policy; see `count`."""
        self.count(refusal.namespace, reason_of(refusal), times, example=str(refusal))

    def count(self, namespace: str, why: str, times: int = 1, *, example: str | None = None) -> None:
        """Count refusals of what intake had let in; intake tells of them, with its own, and with the first example."""
        pair = (namespace, why)
        if pair not in self._counted and len(self._counted) >= MOST_COUNTED:
            pair = (OTHERS, why)
        self._counted[pair] += times
        if example is not None:
            self._examples.setdefault(pair, example)

    def take_counted(self) -> dict[str, Sums]:
        """What was counted since this was asked last, by namespace.

        What is over 10,000 pairs is counted for `(others)`.
        """
        counted, self._counted = self._counted, Counter()
        examples, self._examples = self._examples, {}
        found: dict[str, Sums] = {}
        for (namespace, why), times in counted.items():
            sums = found.setdefault(namespace, Sums({}, {}))
            sums.times[why] = times
            if (example := examples.get((namespace, why))) is not None:
                sums.examples[why] = example
        return found

    def refusal_of_target(self, record: Record, region: str | None) -> Refusal | None:
        """What is not allowed of where a record's machine is requested; asked before its credentials are used."""
        allowed = self.of(record.namespace)
        if allowed is None:
            return None
        asked = Asked(spec=Spec(), profile=record.profile or "", region=region)
        return next(iter(allowed.refusals(asked, {About.TARGET})), None)

    def refusal_of_access(self, namespace: str, cidrs: tuple[str, ...]) -> Refusal | None:
        """What is not allowed of networks that are to reach a machine; asked before they are let in."""
        allowed = self.of(namespace)
        if allowed is None:
            return None
        asked = Asked(spec=msgspec.structs.replace(Spec(), ssh_from=cidrs), profile="")
        return next(iter(allowed.refusals(asked, {About.ACCESS})), None)

    def public_profiles(self, offered: Sequence[str]) -> tuple[str, ...]:
        """Those of a host's AWS profiles whose names every namespace may read: those of the table `*`."""
        if self.policy is None:
            return tuple(offered)
        everyone = self.policy.of(EVERYONE).profiles
        return tuple(name for name in offered if name in everyone)

    def own_profiles(self, offered: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Further ones that a namespace with a table of its own may use, by namespace."""
        if self.policy is None:
            return {}
        public = self.public_profiles(offered)
        own = {name: self.policy.of(name).profiles for name in self.policy.namespaces}
        found = {
            name: tuple(one for one in offered if one in of_it and one not in public) for name, of_it in own.items()
        }
        return {name: profiles for name, profiles in found.items() if profiles}

    def reload(self) -> bool:
        """Read the file anew if it has changed; whether it has. A file that cannot be used changes nothing.

        Raises:
            InvalidInput: it cannot be used: what was in force stays in force.
        """
        if self._path is None or (stamp := self._stamp()) == self._seen:
            return False
        self.policy = self._read()
        self._seen = stamp
        return True

    def _read(self) -> Policy:
        assert self._path is not None
        return read_policy(self._path, named=f"{POLICY_VARIABLE} {self._path}")

    def _stamp(self) -> tuple[int, ...] | None:
        """What changes whenever the file is written or replaced; None: it cannot be looked at."""
        try:
            found = os.stat(self._path or "")  # noqa: PTH116 - a missing path is handled as a missing file
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


def reason_of(refusal: Refusal) -> str:
    """The reason under which a refusal by the policy is summed."""
    return f"{POLICY}{refusal.rule}"
