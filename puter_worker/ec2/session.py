"""AWS sessions: one for each profile, with one long-lived EC2 client for each profile and region.

Making the first client takes 0.3 s of CPU (EC2's service model is large); with the model loaded, another takes 0.01 s.
So a client is made once, when it is first needed, and lent to each call.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aioboto3
import aiobotocore
import structlog
from aiobotocore.config import AioConfig

from puter_worker.ec2.aws_settings import (
    DEFAULT_REGION,
    check_connection_settings,
    default_profile,
    region_of,
    settings_error,
    with_program,
)
from puter_worker.ec2.core import core_of
from puter_worker.ec2.credentials.profile import Credentials
from puter_worker.ec2.credentials.unresolved import whose
from puter_worker.ec2.errors import is_of_a_call, stage_error
from puter_worker.errors import CredentialsError, Ec2Error, Handling, WrongAccount
from puter_worker.tasks import cancel_all
from puter_worker.timings import Timings

if TYPE_CHECKING:
    from aiobotocore.session import AioSession
    from types_aiobotocore_ec2.client import EC2Client

_MAX_CONNECTIONS = 64
_log = structlog.get_logger("puter.aws")


@dataclass(eq=False)
class _Client:
    ec2: EC2Client
    stack: contextlib.AsyncExitStack
    users: int = 0
    retired: bool = False


@dataclass(eq=False)
class _Profile:
    name: str | None
    session: aioboto3.Session
    core: AioSession
    credentials: Credentials
    account_id: str | None = None
    asking: dict[str, asyncio.Task[str]] = field(default_factory=dict)
    clients: dict[str, _Client] = field(default_factory=dict)
    making: asyncio.Lock = field(default_factory=asyncio.Lock)


class Sessions:
    """The AWS profiles that this process knows; an object belongs to one event loop.

    Endpoints, regions and credentials come from the places where every AWS tool looks for them: `AWS_*` in the
    environment and the files under `~/.aws`. What is wrong there is never a defect, and never doubtful: whatever is
    raised while a session or client is made is an AwsSettingsError, whatever a provider of credentials raises is a
    CredentialsError (see `credentials/profile.py`), and only what is left is an error of the call itself.
    """

    def __init__(self, timings: Timings, *, version: str) -> None:
        self._timings = timings
        # total_max_attempts=1: the SDK's own retries would spend calls that Puter's pacer does not see.
        self._config = AioConfig(
            connect_timeout=timings.sdk_connect_s,
            read_timeout=timings.sdk_read_s,
            max_pool_connections=_MAX_CONNECTIONS,
            retries={"total_max_attempts": 1, "mode": "standard"},
            # With "auto", whoever makes a client would ask the metadata service where this host is; what it would set
            # is set here.
            defaults_mode="legacy",
            # Without this the SDK composes its own text for each call, which is a tenth of a small call's cost.
            user_agent=f"puter/{version} aiobotocore/{aiobotocore.__version__}",
        )
        self._profiles: dict[str | None, _Profile] = {}
        self._credentials: dict[str | None, Credentials] = {}
        self._making = asyncio.Lock()
        self._offered: list[str] = []
        self._with_program: frozenset[str] = frozenset()
        self._offered_until = 0.0
        self._unusable: str | None = None
        # Below INFO the SDK logs whole calls and answers, with user data and private keys; at INFO it logs where it
        # looked for settings.
        for name in ("boto3", "botocore", "aiobotocore", "aioboto3"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # These log what providers raised, with a traceback; `credentials.failed` says it.
        for name in ("aiobotocore.credentials", "aiobotocore.tokens"):
            logging.getLogger(name).setLevel(logging.CRITICAL)

    def offered_profiles(self) -> list[str]:
        """Names of the AWS profiles on this host, sorted; the files were read at most `profiles_s` ago.

        While the files cannot be parsed, for example because somebody edits them, these are the names that they had
        before.
        """
        now = time.monotonic()
        if now >= self._offered_until:
            # Reading the files takes 10 ms of CPU, and every ensure job needs the list.
            self._offered_until = now + self._timings.profiles_s
            try:
                core = core_of(None)
                self._offered, self._unusable = sorted(core.available_profiles), None
                self._with_program = with_program(core.full_config.get("profiles", {}))
            except Exception as error:  # noqa: BLE001 - see settings_error
                message = settings_error(error, None).message
                if message != self._unusable:
                    _log.warning("aws_settings.unusable", message=message)
                self._unusable = message
        return self._offered

    def runs_a_program(self, profile: str | None) -> bool:
        """Whether a profile's credentials come from a program of this host; None: the default ones, if they do."""
        self.offered_profiles()
        if profile is not None:
            return profile in self._with_program
        if os.environ.get("AWS_ACCESS_KEY_ID"):  # the environment is asked first
            return False
        return default_profile() in self._with_program

    def region_of(self, profile: str | None) -> str | None:
        """The region that this host's settings name for a profile, if any: see `aws_settings.region_of`.

        Raises:
            StageError: this host does not have the profile, or its settings cannot be used.
        """
        with self._settings_of(profile):
            return region_of(self._profile(profile).core)

    async def check(self) -> None:
        """Check the settings of the default profile; nothing is called, and no credentials are resolved.

        Raises:
            StageError: they cannot be used.
        """
        await self._client(None, self.region_of(None) or DEFAULT_REGION, None)

    async def account_id(self, profile: str | None, region: str) -> str:
        """The 12 digits of the account that a profile's credentials belong to; STS is called once for a session.

        Raises:
            StageError: the credentials or the settings are not usable, or STS was not reached.
        """
        known = self._profile(profile)
        try:
            return await self._account_of(known, region)
        except Ec2Error as refused:
            if refused.handling is Handling.CREDENTIALS:
                await self.forget(profile)
            raise

    @contextlib.asynccontextmanager
    async def ec2(self, profile: str | None, region: str, *, account: str | None = None) -> AsyncIterator[EC2Client]:
        """Lends the EC2 client of a profile and region; if `account` is given, never a client of another account.

        Raises:
            WrongAccount: the profile's credentials were replaced by those of another account.
            StageError: the client cannot be made, for example because there is no such profile.
        """
        client = await self._client(profile, region, account)
        client.users += 1
        try:
            yield client.ec2
        finally:
            client.users -= 1
            if client.retired and not client.users:
                await client.stack.aclose()

    async def forget(self, profile: str | None, client: EC2Client | None = None) -> None:
        """Makes the next call read the profile's credentials again, as is needed after an operator's `aws sso login`.

        Calls in flight keep the client that they were lent: if it were closed, their outcome would be unknown.

        Args:
            profile: the profile to forget, unless its credentials were resolved within `credentials_again_s`.
            client: forget only if this client is still in use; if a hundred calls fail together, only the first of
                them forgets.
        """
        known = self._profiles.get(profile)
        if known is None or (client is not None and all(c.ec2 is not client for c in known.clients.values())):
            return
        if not known.credentials.drop():
            return
        del self._profiles[profile]
        await _retire(known)

    async def close_client(self, profile: str | None, region: str) -> None:
        """Closes the EC2 client of a region, if there is one; the next call makes another."""
        known = self._profiles.get(profile)
        client = known.clients.pop(region, None) if known is not None else None
        if client is not None:
            await _retire_client(client)

    def hurry(self) -> None:
        """Give up soon on credentials that are being resolved: the worker is about to end."""
        for credentials in self._credentials.values():
            credentials.hurry()

    async def aclose(self) -> None:
        """Closes every client, once its calls in flight have ended, and ends the programs that resolve credentials."""
        credentials, self._credentials = self._credentials, {}
        profiles, self._profiles = self._profiles, {}
        await cancel_all([task for profile in profiles.values() for task in profile.asking.values()])
        for one in credentials.values():
            await one.aclose()
        for profile in profiles.values():
            await _retire(profile)

    @contextlib.asynccontextmanager
    async def _turn_to_make(self) -> AsyncIterator[None]:
        """Clients are made one at a time, and the loop serves others between two: certificates are read for each.

        A hundred regions at once would hold the loop for seconds. A turn takes nothing but CPU: no credentials are
        resolved, nothing is called.
        """
        async with self._making:
            await asyncio.sleep(0)
            yield

    def _made(self, profile: str | None) -> _Profile:
        core = core_of(profile)
        # They outlive what is forgotten: how they failed last, and when, is known still.
        credentials = self._credentials.setdefault(profile, Credentials(profile, self._timings))
        core.register_component("credential_provider", credentials)
        return _Profile(profile, aioboto3.Session(botocore_session=core), core, credentials)

    def _profile(self, name: str | None) -> _Profile:
        if name not in self._profiles:
            self._profiles[name] = self._made(name)
        return self._profiles[name]

    @contextlib.contextmanager
    def _settings_of(self, profile: str | None) -> Iterator[None]:
        """Translates what goes wrong with settings; unless clients use them already, the next call reads them anew."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - see settings_error
            known = self._profiles.get(profile)
            if known is not None and not known.clients:
                del self._profiles[profile]
            raise settings_error(error, profile) from None

    async def _account_of(self, known: _Profile, region: str) -> str:
        """The account of a session, read once."""
        if known.account_id is None:
            asking = known.asking.get(region)
            if asking is None:
                asking = known.asking[region] = asyncio.create_task(self._ask_account(known, region))
                asking.add_done_callback(functools.partial(_asked, known, region))
            known.account_id = await asyncio.shield(asking)
        return known.account_id

    async def _ask_account(self, known: _Profile, region: str) -> str:
        known.credentials.region = region
        async with contextlib.AsyncExitStack() as stack:
            async with self._turn_to_make():
                if known.account_id is not None:  # another region's STS has said it meanwhile
                    return known.account_id
                with self._settings_of(known.name):
                    sts = await stack.enter_async_context(
                        known.session.client("sts", region_name=region, config=self._config)
                    )
                    check_connection_settings(known.core, sts.meta.endpoint_url)
            try:
                return (await sts.get_caller_identity())["Account"]
            except Exception as unread:
                if not is_of_a_call(unread):
                    raise
                error = stage_error(unread, profile=known.name, region=region, service="STS")
                if error.doubtful:  # the call changes nothing, so nothing is in doubt
                    raise CredentialsError(
                        f"the account of {whose(known.name)} is not known: {error.message}"
                    ) from None
                raise error from None

    async def _client(self, profile: str | None, region: str, account: str | None) -> _Client:
        while True:
            known = self._profile(profile)
            if account is not None and (found := await self._account_of(known, region)) != account:
                await self.forget(profile)  # read again next time: the operator may have fixed it
                raise WrongAccount(profile, wanted=account, found=found)
            if region in known.clients and self._profiles.get(profile) is known:
                return known.clients[region]  # those that are still to be made hold nobody up
            async with known.making:
                if self._profiles.get(profile) is not known:  # forgotten while this call waited
                    continue
                if region not in known.clients:
                    known.clients[region] = await self._made_client(known, region)
                if self._profiles.get(profile) is known:
                    return known.clients[region]
                await _retire(known)

    async def _made_client(self, known: _Profile, region: str) -> _Client:
        known.credentials.region = region
        async with contextlib.AsyncExitStack() as stack:
            async with self._turn_to_make():
                with self._settings_of(known.name):
                    made = await stack.enter_async_context(
                        known.session.client("ec2", region_name=region, config=self._config)
                    )
                    check_connection_settings(known.core, made.meta.endpoint_url)
            return _Client(made, stack.pop_all())


def _asked(known: _Profile, region: str, asking: asyncio.Task[str]) -> None:
    known.asking.pop(region, None)
    if not asking.cancelled():
        asking.exception()  # whoever waits for it raises it


async def _retire(profile: _Profile) -> None:
    for client in profile.clients.values():
        await _retire_client(client)


async def _retire_client(client: _Client) -> None:
    client.retired = True
    if not client.users:
        await client.stack.aclose()
