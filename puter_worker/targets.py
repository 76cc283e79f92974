"""The targets that a worker reaches: from a profile and region, as requests name them, to the account they are of."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path

from puter_worker.ec2.aws_settings import DEFAULT_REGION
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.credentials.failing import FailingCredentials
from puter_worker.ec2.credentials.unresolved import whose
from puter_worker.ec2.session import Sessions
from puter_worker.errors import CredentialsError, Handling, PolicyRefused, StageError, reason_after
from puter_worker.metrics import NO_METRICS, Metrics
from puter_worker.pacer import Pacer
from puter_worker.policy import Rules
from puter_worker.rates import Rates
from puter_worker.store.store import Store
from puter_worker.target import Target, TargetId
from puter_worker.timings import Timings


class Targets:
    """All targets that this worker's credentials reach.

    Attributes:
        sessions: this host's AWS profiles.
        rules: what namespaces may request.
        failing: profiles whose credentials fail.
    """

    def __init__(
        self,
        store: Store,
        sessions: Sessions,
        timings: Timings,
        *,
        rates: Rates | None = None,
        pace: bool = True,
        private_keys: Path | None = None,
        metrics: Metrics = NO_METRICS,
        rules: Rules | None = None,
    ) -> None:
        """Nothing is called yet.

        Args:
            store: holds the token buckets.
            sessions: the host's AWS profiles.
            timings: of the worker.
            rates: None uses EC2's published rates.
            pace: whether calls are held to the rates.
            private_keys: a local engine's folder for keys that EC2 makes, for clients that cannot make one; None: the
                worker is of a shared Redis, makes no keys, and gives each namespace resources of its own.
            metrics: counts what is done there.
            rules: the workers' policy; None: all is allowed.
        """
        self._store = store
        self.sessions = sessions
        self._timings = timings
        self._rates = rates or Rates()
        self._pace = pace
        self._private_keys = private_keys
        self._metrics = metrics
        self.rules = rules or Rules()
        self.failing = FailingCredentials()
        self._targets: dict[TargetId, Target] = {}
        self._unsure_until: dict[TargetId, float] = {}

    async def find(self, profile: str | None, region: str | None) -> Target:
        """The target of a profile and region as a request names them; None is the default.

        Raises:
            StageError: this host has no such profile, or no usable credentials, or nobody has allowed to use it.
        """
        if self.rules.refuses_programs and self.sessions.runs_a_program(profile):
            raise PolicyRefused(
                f"{whose(profile)} gets its credentials from a program (credential_process), and the workers have no "
                "policy that says who may use it: name the profile in a policy (PUTER_POLICY), or request another one"
            )
        try:
            region = region or self.sessions.region_of(profile) or DEFAULT_REGION
            async with asyncio.timeout(self._timings.account_s):
                account = await self.sessions.account_id(profile, region)
        except TimeoutError:
            error = CredentialsError("AWS did not say in time which account the credentials belong to")
            self._note_failing(profile, error)
            raise error from None
        except StageError as error:
            if error.handling is Handling.CREDENTIALS:
                self._note_failing(profile, error)
            raise
        self.failing.succeeded(profile)
        return self.get(TargetId(account, region, profile or ""))

    def _note_failing(self, profile: str | None, error: StageError) -> None:
        if self.offers(profile or ""):  # what this host does not have is whatever somebody has requested
            self.failing.failed(profile, reason_after(error), self._store.now())

    async def reaches(self, target_id: TargetId) -> bool:
        """Whether this host's credentials may belong to the target: its profile of that name may be another account's.

        If the account cannot be read now, the answer is yes: each call checks the account, and reports what is wrong.
        """
        if not self.offers(target_id.profile):
            return False
        now = asyncio.get_running_loop().time()
        if now < self._unsure_until.get(target_id, 0.0):
            return True
        try:
            async with asyncio.timeout(self._timings.unsure_after_s):
                account = await self.sessions.account_id(target_id.profile or None, target_id.region)
        except (StageError, TimeoutError):
            self._unsure_until[target_id] = now + self._timings.unsure_s
            return True
        return account == target_id.account

    def get(self, target_id: TargetId) -> Target:
        """The target with this id; one object for each."""
        target = self._targets.get(target_id)
        if target is None:
            buckets = (
                self._store.token_buckets(target_id.account, target_id.region, self._rates) if self._pace else None
            )
            clock, metrics = self._store.db.clock, self._metrics
            pacer = Pacer(buckets, rates=self._rates, clock=clock, timings=self._timings, metrics=metrics)
            caller = Caller(
                self.sessions,
                profile=target_id.profile or None,
                region=target_id.region,
                account=target_id.account,
                pace=pacer.pace,
                throttled=pacer.slow_down,
                metrics=metrics,
            )
            target = self._targets[target_id] = Target(
                target_id,
                caller,
                pacer,
                self._timings,
                clock=clock,
                private_keys=self._private_keys,
                metrics=metrics,
                rules=self.rules,
            )
        return target

    def offered(self) -> tuple[str, ...]:
        """The AWS profiles of this host that may be used at all."""
        sessions = self.sessions
        return tuple(
            name
            for name in sessions.offered_profiles()
            if not (self.rules.refuses_programs and sessions.runs_a_program(name))
        )

    def known(self) -> list[TargetId]:
        """The targets of which this worker holds anything."""
        return list(self._targets)

    async def forget_others(self, led: Collection[TargetId]) -> None:
        """Let go of all targets but these, with their clients; calls in flight keep theirs until they end."""
        for target_id in [one for one in self._targets if one not in led]:
            del self._targets[target_id]
            self._unsure_until.pop(target_id, None)
            if not any((one.profile, one.region) == (target_id.profile, target_id.region) for one in led):
                await self.sessions.close_client(target_id.profile or None, target_id.region)

    def offers(self, profile: str) -> bool:
        """Whether this host has a profile ("" is its default credentials)."""
        return not profile or profile in self.sessions.offered_profiles()
