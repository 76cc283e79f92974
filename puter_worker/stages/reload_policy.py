"""policy: reads the policy file anew when it has changed. Repeating it is harmless.

A file that cannot be used is this stage's error, in the log and in the worker's health, as long as it stays so; what
was in force stays in force.
"""

from __future__ import annotations

import asyncio

import structlog

from puter_client.contract.errors import InvalidInput
from puter_worker.errors import PolicyUnusable
from puter_worker.policy import Rules
from puter_worker.stages.stage import Stage
from puter_worker.timings import Timings

_log = structlog.get_logger("puter.policy")


class ReloadPolicy(Stage):
    """Keeps a worker's rules as its policy file has them."""

    name = "policy"

    def __init__(self, rules: Rules, timings: Timings) -> None:
        super().__init__()
        self._rules = rules
        self._timings = timings
        self._told: tuple[str, ...] = ()

    async def run_once(self) -> float:
        """Look at the file once.

        Raises:
            PolicyUnusable: it has changed, and cannot be used.
        """
        try:
            changed = await asyncio.to_thread(self._rules.reload)
        except InvalidInput as error:
            if error.problems != self._told:
                self._told = error.problems
                _log.error("policy.unusable", problems=error.problems, why="the policy read before stays in force")
            # Every namespace may read a worker's health: what the file says of others is in the log alone.
            raise PolicyUnusable(
                f"the policy file cannot be used (problems: {len(error.problems)}; policy.unusable in the worker's log "
                "has them): the policy read before stays in force"
            ) from None
        self._told = ()
        if changed:
            _log.info("policy.read", namespaces=self._rules.policy.namespaces if self._rules.policy else ())
        return self._timings.policy_s
