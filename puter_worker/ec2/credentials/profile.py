"""The credentials of one AWS profile: resolved in one place, once for all that need them.

botocore resolves credentials when a client is made, and refreshes them inside the call that needs them. There, an
error of a provider cannot be told from an error of the call, each of a hundred calls would run the profile's
program, and a program that hangs would hold up whatever waits. So clients are given the object below instead: the
providers run in a task of its own, and whatever comes out of them is a CredentialsError.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from math import inf
from typing import TYPE_CHECKING

import structlog
from aiobotocore.credentials import AioCredentials
from botocore.credentials import RefreshableCredentials

from puter_worker.ec2.aws_settings import DEFAULT_REGION
from puter_worker.ec2.core import core_of
from puter_worker.ec2.credentials.providers import providers_of
from puter_worker.ec2.credentials.unresolved import none_found, not_yet, timed_out, unresolved
from puter_worker.errors import StageError
from puter_worker.timings import Timings

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials

_log = structlog.get_logger("puter.credentials")


class Credentials(AioCredentials):
    """What all clients of one profile sign with; an object belongs to one event loop.

    One resolution runs at a time. A call waits a little for it, then it is told what it waits for; the resolution goes
    on. A failed one is not repeated for `credentials_again_s`. Each reads this host's AWS files anew.

    Attributes:
        region: where STS is asked for a role: the region of the latest client, as with botocore.
    """

    def __init__(self, profile: str | None, timings: Timings) -> None:
        super().__init__("", "", method="puter")  # the keys are asked for with `get_frozen_credentials`
        self._profile = profile
        self.region = DEFAULT_REGION
        self._timings = timings
        self._longest_s = timings.credentials_s
        self._limit: asyncio.Timeout | None = None
        self._task: asyncio.Task[ReadOnlyCredentials] | None = None
        self._ended_at = -inf
        self._provider = ""
        self._loaded: AioCredentials | None = None
        self._current: tuple[AioCredentials, ReadOnlyCredentials] | None = None
        self._failure: StageError | None = None

    async def load_credentials(self) -> Credentials:
        """The name by which botocore's sessions ask for credentials; nothing is resolved yet."""
        return self

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:  # type: ignore[override]  # the stubs' is not async
        """What a call is signed with now; the name is botocore's.

        Raises:
            CredentialsError: they cannot be resolved, or not soon.
        """
        if self._current is not None:
            loaded, frozen = self._current
            if not _ends_within(loaded, self._timings.credentials_last_s):
                if _ends_within(loaded) and self._may_begin(self._timings.credentials_early_apart_s):
                    self._begin()  # nobody waits for it
                return frozen
        if self._failure is not None and self._task is None and not self._may_begin(self._timings.credentials_again_s):
            raise self._failure.with_traceback(None)
        task = self._task or self._begin()
        await asyncio.wait([task], timeout=self._timings.credentials_told_s)
        if task.done() and not task.cancelled():
            return task.result()
        if self._failure is not None:  # the reason of the last attempt says more than that this one takes long
            raise self._failure.with_traceback(None)
        raise not_yet(self._profile, self._provider, self._longest_s)

    def drop(self) -> bool:
        """Have them resolved again before the next call, because AWS refused them; False: that was done just now."""
        if not self._may_begin(self._timings.credentials_again_s):
            return False
        self._loaded = self._current = None
        return True

    def hurry(self) -> None:
        """Give up resolutions soon, also one that runs: the worker is about to end."""
        self._longest_s = self._timings.credentials_drain_s
        if self._limit is not None:
            until = asyncio.get_running_loop().time() + self._longest_s
            self._limit.reschedule(min(until, self._limit.when() or until))

    async def aclose(self) -> None:
        """End the resolution that runs, and its programs."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _may_begin(self, apart_s: float) -> bool:
        return self._task is None and time.monotonic() - self._ended_at >= apart_s

    def _begin(self) -> asyncio.Task[ReadOnlyCredentials]:
        # With a context of its own: its log lines are not about the key whose call needed it first.
        self._task = asyncio.create_task(self._resolve(), context=contextvars.Context())
        self._task.add_done_callback(self._ended)
        return self._task

    def _ended(self, task: asyncio.Task[ReadOnlyCredentials]) -> None:
        self._task, self._ended_at = None, time.monotonic()
        if not task.cancelled():
            task.exception()  # whoever waits for the task raises it; if nobody does, it is in the log

    async def _resolve(self) -> ReadOnlyCredentials:
        limit = self._limit = asyncio.timeout(self._longest_s)
        try:
            async with limit:
                if self._loaded is None:
                    self._loaded = await self._load()
                loaded = self._loaded
                frozen = await loaded.get_frozen_credentials()
        except Exception as error:  # noqa: BLE001 - a provider runs others' programs and reads their files
            self._loaded = None
            if limit.expired():
                failure: StageError = timed_out(self._profile, self._provider, self._longest_s)
            else:
                failure = unresolved(error, profile=self._profile, provider=self._provider)
            if self._failure is None or failure.message != self._failure.message:
                _log.warning(
                    "credentials.failed", profile=self._profile, provider=self._provider, message=failure.message
                )
            self._failure = failure
            raise failure from None
        finally:
            self._limit = None
        if self._failure is not None:
            _log.info("credentials.resolved", profile=self._profile, provider=self._provider)
        self._current, self._failure = (loaded, frozen), None
        return frozen

    async def _load(self) -> AioCredentials:
        self._provider = ""
        core = core_of(self._profile)
        for provider in providers_of(core, profile=self._profile, region=self.region, timings=self._timings):
            self._provider = provider.METHOD
            loaded: AioCredentials | None = await provider.load()
            if loaded is not None:
                return loaded
        raise none_found(self._profile)


def _ends_within(credentials: object, seconds: int | None = None) -> bool:
    """Whether they expire so soon; None: so soon that botocore renews them (15 minutes)."""
    return isinstance(credentials, RefreshableCredentials) and credentials.refresh_needed(seconds)
