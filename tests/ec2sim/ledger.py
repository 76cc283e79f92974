"""Every call that came in, and what became of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

import msgspec

MAX_PARAMS = 40
MAX_VALUE = 120
_UNTOLD = frozenset({"Action", "Version", "UserData"})


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One call.

    Attributes:
        number: counts the calls from 1.
        at: when it was answered, seconds since 1970.
        account: account id.
        region: as signed.
        access_key: id of the signing key.
        action: EC2's name of it.
        digest: 16 hex digits of all parameters but ClientToken.
        params: the first parameters, shortened; user data is only in the digest.
        effect: ids of what it made or changed; empty if nothing.
        code: `OK`, of the error that was answered, or `Lost` if the call never reached EC2.
        status: of the HTTP answer; 0 if lost.
        answer: what the caller saw of it.
        request_id: EC2's.
    """

    number: int
    at: float
    account: str
    region: str
    access_key: str
    action: str
    digest: str
    params: dict[str, str]
    effect: tuple[str, ...]
    code: str
    status: int
    answer: Literal["whole", "cut", "dropped"]
    request_id: str

    @property
    def forbidden(self) -> bool:
        """Whether it is a call that Puter never makes: it would delete, terminate or revoke."""
        return self.action.startswith(("Delete", "Terminate", "Revoke", "Deregister", "Release", "Detach"))


def digest_of(form: Mapping[str, str]) -> str:
    """16 hex digits that agree for calls that ask for the same."""
    told = sorted(item for item in form.items() if item[0] not in {"ClientToken", "Version", "DryRun"})
    return hashlib.blake2s(repr(told).encode(), digest_size=8).hexdigest()


def told_params(form: Mapping[str, str]) -> dict[str, str]:
    """The parameters that a ledger shows."""
    told: dict[str, str] = {}
    for name, value in form.items():
        if name not in _UNTOLD:
            told[name] = value[:MAX_VALUE]
            if len(told) == MAX_PARAMS:
                break
    return told


class Ledger:
    """The calls in their order."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """One more call."""
        self.entries.append(entry)

    def since(self, number: int = 0, action: str | None = None) -> list[Entry]:
        """Calls after a number, of one action or all."""
        return [entry for entry in self.entries[number:] if action in {None, entry.action}]

    def counts(self) -> dict[str, dict[str, int]]:
        """How many calls by action and code."""
        counts: dict[str, dict[str, int]] = {}
        for entry in self.entries:
            codes = counts.setdefault(entry.action, {})
            codes[entry.code] = codes.get(entry.code, 0) + 1
        return counts
