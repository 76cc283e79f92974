"""AWS sessions: one for each profile, with one long-lived EC2 client for each profile and region.

Making the first client takes 0.3 s of CPU (EC2's service model is large); with the model loaded, another takes 0.01 s.
So a client is made once, when it is first needed, and lent to each call.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import aioboto3
import aiobotocore.session
from aiobotocore.config import AioConfig
from botocore.loaders import Loader
from botocore.utils import parse_timestamp

from puter_worker.ec2.errors import is_of_a_call, stage_error
from puter_worker.errors import Handling, WrongAccount
from puter_worker.timings import Timings

if TYPE_CHECKING:
    from types_aiobotocore_ec2.client import EC2Client

_MAX_CONNECTIONS = 64


@dataclass(eq=False)
class _Client:
    ec2: EC2Client
    stack: contextlib.AsyncExitStack
    users: int = 0
    retired: bool = False


@dataclass(eq=False)
class _Profile:
    session: aioboto3.Session
    core: aiobotocore.session.AioSession
    account_id: str | None = None
    clients: dict[str, _Client] = field(default_factory=dict)
    making: asyncio.Lock = field(default_factory=asyncio.Lock)


class Sessions:
    """The AWS profiles that this process knows; an object belongs to one event loop.

    Endpoints, regions and credentials come from the places where every AWS tool looks for them: `AWS_*` in the
    environment and the files under `~/.aws`.
    """

    def __init__(self, timings: Timings, *, version: str) -> None:
        self._timings = timings
        # total_max_attempts=1: the SDK's own retries would spend calls that Puter's pacer does not see.
        self._config = AioConfig(
            connect_timeout=timings.sdk_connect_s,
            read_timeout=timings.sdk_read_s,
            max_pool_connections=_MAX_CONNECTIONS,
            retries={"total_max_attempts": 1, "mode": "standard"},
            # Without this the SDK composes its own text for each call, which is a tenth of a small call's cost.
            user_agent=f"puter/{version} aiobotocore/{aiobotocore.__version__}",
        )
        self._profiles: dict[str | None, _Profile] = {}
        self._offered: list[str] = []
        self._offered_until = 0.0
        # Below INFO the SDK logs whole calls and answers, with user data and private keys; at INFO it logs where it
        # looked for settings.
        for name in ("boto3", "botocore", "aiobotocore", "aioboto3"):
            logging.getLogger(name).setLevel(logging.WARNING)

    @staticmethod
    def preload() -> None:
        """Read what the first client needs from the SDK's files. It takes 0.1 s: call it before anybody waits."""
        for service in ("ec2", "sts"):
            for kind in ("service-2", "endpoint-rule-set-1"):
                _models().load_service_model(service, kind)
        for name in ("endpoints", "partitions", "sdk-default-configuration"):
            _models().load_data(name)

    def offered_profiles(self) -> list[str]:
        """Names of the AWS profiles on this host, sorted; the files were read at most `profiles_s` ago."""
        now = time.monotonic()
        if now >= self._offered_until:
            # Reading the files takes 10 ms of CPU, and every ensure job needs the list.
            self._offered = sorted(aiobotocore.session.get_session().available_profiles)
            self._offered_until = now + self._timings.profiles_s
        return self._offered

    def region_of(self, profile: str | None) -> str | None:
        """The region set for a profile, if any; a named profile's own region comes before AWS_DEFAULT_REGION.

        Raises:
            ProfileMissing: this host does not have the profile.
        """
        try:
            known = self._profile(profile)
            own: str | None = known.core.get_scoped_config().get("region") if profile else None
            region: str | None = own or known.session.region_name
        except Exception as error:
            if is_of_a_call(error):
                raise stage_error(error, profile=profile) from None
            raise
        return region

    async def account_id(self, profile: str | None, region: str) -> str:
        """The 12 digits of the account that a profile's credentials belong to; STS is called once for a session.

        Raises:
            StageError: the credentials are not usable, or STS was not reached.
        """
        try:
            known = self._profile(profile)
            async with known.making:
                return await self._account_of(known, region)
        except Exception as unread:
            if not is_of_a_call(unread):
                raise
            error = stage_error(unread, profile=profile)
        if error.handling is Handling.CREDENTIALS:
            await self.forget(profile)
        raise error

    @contextlib.asynccontextmanager
    async def ec2(self, profile: str | None, region: str, *, account: str | None = None) -> AsyncIterator[EC2Client]:
        """Lends the EC2 client of a profile and region; if `account` is given, never a client of another account.

        Raises:
            WrongAccount: the profile's credentials were replaced by those of another account.
            botocore's errors: the client cannot be made, for example because there is no such profile.
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
            profile: the profile to forget.
            client: forget only if this client is still in use; if a hundred calls fail together, only the first of
                them forgets.
        """
        known = self._profiles.get(profile)
        if known is None or (client is not None and all(c.ec2 is not client for c in known.clients.values())):
            return
        del self._profiles[profile]
        await _retire(known)

    async def aclose(self) -> None:
        """Closes every client, once its calls in flight have ended."""
        profiles, self._profiles = self._profiles, {}
        for profile in profiles.values():
            await _retire(profile)

    @staticmethod
    def _made(profile: str | None) -> _Profile:
        core = aiobotocore.session.get_session()
        core.register_component("data_loader", _models())
        core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
        return _Profile(aioboto3.Session(botocore_session=core, profile_name=profile), core)

    def _profile(self, name: str | None) -> _Profile:
        if name not in self._profiles:
            self._profiles[name] = self._made(name)
        return self._profiles[name]

    async def _account_of(self, known: _Profile, region: str) -> str:
        """The account of a session, read once. The caller holds `known.making`."""
        if known.account_id is None:
            async with known.session.client("sts", region_name=region, config=self._config) as sts:
                known.account_id = (await sts.get_caller_identity())["Account"]
        return known.account_id

    async def _client(self, profile: str | None, region: str, account: str | None) -> _Client:
        while True:
            known = self._profile(profile)
            async with known.making:
                if self._profiles.get(profile) is not known:  # forgotten while this call waited
                    continue
                if account is not None and (found := await self._account_of(known, region)) != account:
                    if self._profiles.get(profile) is known:
                        del self._profiles[profile]  # read again next time: the operator may have fixed it
                    await _retire(known)
                    raise WrongAccount(profile, wanted=account, found=found)
                if region not in known.clients:
                    stack = contextlib.AsyncExitStack()
                    made = known.session.client("ec2", region_name=region, config=self._config)
                    known.clients[region] = _Client(await stack.enter_async_context(made), stack)
                if self._profiles.get(profile) is known:
                    return known.clients[region]
                await _retire(known)


def _timestamp(value: Any) -> datetime:
    """Parses a timestamp as botocore does, but 100 times as fast for the format that EC2 uses."""
    if isinstance(value, str) and "T" in value:
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(value)
    read: datetime = parse_timestamp(value)
    return read


@functools.cache
def _models() -> Loader:
    """The loader of service models, which caches what it has read; all sessions share it."""
    loader: Loader = aiobotocore.session.get_session().get_component("data_loader")
    return loader


async def _retire(profile: _Profile) -> None:
    for client in profile.clients.values():
        client.retired = True
        if not client.users:
            await client.stack.aclose()
