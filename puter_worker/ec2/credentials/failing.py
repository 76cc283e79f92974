"""Profiles whose credentials fail: what a worker publishes of them, since no stage of a target runs without an account.

A stage has errors of its own; but as long as nobody knows which account the credentials belong to, there is no target,
and requests only wait.
"""

from __future__ import annotations

from puter_client.contract.health import CredentialsHealth

# Whoever waits for credentials tries again every 5 s, in one of the workers; a profile that nobody asks for any more is
# not failing.
FORGET_S = 60.0


class FailingCredentials:
    """The profiles of a worker whose credentials failed when they were last used; times are seconds of Redis TIME."""

    def __init__(self) -> None:
        self._failing: dict[str, CredentialsHealth] = {}
        self._failed_at: dict[str, float] = {}

    def failed(self, profile: str | None, error: str, now: float) -> None:
        """Note that a profile's credentials could not be used; None is the default."""
        name = profile or ""
        since = next((one.since for one in self.now(now) if one.profile == name), now)
        self._failing[name] = CredentialsHealth(profile=name, since=since, error=error)
        self._failed_at[name] = now

    def succeeded(self, profile: str | None) -> None:
        """Note that a profile's credentials were used."""
        self._failing.pop(profile or "", None)

    def now(self, now: float) -> tuple[CredentialsHealth, ...]:
        """The profiles that fail, by name."""
        self._failing = {name: one for name, one in self._failing.items() if now - self._failed_at[name] <= FORGET_S}
        return tuple(self._failing[name] for name in sorted(self._failing))
