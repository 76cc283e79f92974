"""Sessions with AWS: one a profile, one long-lived EC2 client a profile and region.

Making the first client takes 0.3 s of CPU (EC2's service model is large), a further one with the model at hand
0.01 s; so clients are made when first needed, once, and lent out call by call.
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

from puter_worker.ec2.errors import Handling, WrongAccount, ec2_error, is_of_a_call

if TYPE_CHECKING:
    from types_aiobotocore_ec2.client import EC2Client

_CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
_MAX_CONNECTIONS = 64
_OFFERED_S = 5.0


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
    """What this process knows of AWS profiles; belongs to one event loop.

    Endpoints, regions and credentials come from where every AWS tool looks for them: `AWS_*` in the environment
    and the files under `~/.aws`.
    """

    def __init__(self, *, version: str) -> None:
        # total_max_attempts=1: the SDK's own retries would spend calls that Puter's pacer does not see.
        self._config = AioConfig(
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            max_pool_connections=_MAX_CONNECTIONS,
            retries={"total_max_attempts": 1, "mode": "standard"},
            # The SDK composes its own anew for each call, a tenth of what a small one costs.
            user_agent=f"puter/{version} aiobotocore/{aiobotocore.__version__}",
        )
        self._profiles: dict[str | None, _Profile] = {}
        self._offered: list[str] = []
        self._offered_until = 0.0
        # Below INFO the SDK logs whole calls and answers, user data and private keys; at INFO, where it looked
        # for settings.
        for name in ("boto3", "botocore", "aiobotocore", "aioboto3"):
            logging.getLogger(name).setLevel(logging.WARNING)

    @staticmethod
    def preload() -> None:
        """Read what a first client needs from the SDK's files, 0.1 s of work; to be called before somebody waits."""
        for service in ("ec2", "sts"):
            for kind in ("service-2", "endpoint-rule-set-1"):
                _models().load_service_model(service, kind)
        for name in ("endpoints", "partitions", "sdk-default-configuration"):
            _models().load_data(name)

    def offered_profiles(self) -> list[str]:
        """Names of the AWS profiles on this host, sorted; as the files stood at most a few seconds ago."""
        now = time.monotonic()
        if now >= self._offered_until:
            # Reading them takes 10 ms of CPU, and every job asks.
            self._offered = sorted(aiobotocore.session.get_session().available_profiles)
            self._offered_until = now + _OFFERED_S
        return self._offered

    def region_of(self, profile: str | None) -> str | None:
        """The region set for a profile, if any; AWS_DEFAULT_REGION stands back behind that of one that is named.

        Raises:
            ProfileMissing: this host does not have the profile.
        """
        try:
            known = self._profile(profile)
            own: str | None = known.core.get_scoped_config().get("region") if profile else None
            region: str | None = own or known.session.region_name
        except Exception as error:
            if is_of_a_call(error):
                raise ec2_error(error, profile=profile) from None
            raise
        return region

    async def account_id(self, profile: str | None, region: str) -> str:
        """The 12 digits of the account that a profile's credentials belong to; asked once.

        Raises:
            Ec2Error: the credentials are not usable, or STS was not reached.
        """
        try:
            known = self._profile(profile)
            async with known.making:
                return await self._account_of(known, region)
        except Exception as unread:
            if not is_of_a_call(unread):
                raise
            error = ec2_error(unread, profile=profile)
        if error.handling is Handling.CREDENTIALS:
            await self.forget(profile)
        raise error

    @contextlib.asynccontextmanager
    async def ec2(self, profile: str | None, region: str, *, account: str | None = None) -> AsyncIterator[EC2Client]:
        """Lends the EC2 client of a profile and region; never one of another account than `account`, if that is given.

        Raises:
            WrongAccount: a profile's credentials may be replaced at any time, by those of another account too.
            botocore's errors where it cannot be made, such as for a profile that is not there.
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
        """Has the next call read the profile's credentials anew, as after an operator's `aws sso login`.

        Calls on their way keep the client that they were lent: cut off, they would end doubtful.

        Args:
            profile: whose.
            client: forget only if this one is still lent; of a hundred calls that failed together, the first does.
        """
        known = self._profiles.get(profile)
        if known is None or (client is not None and all(c.ec2 is not client for c in known.clients.values())):
            return
        del self._profiles[profile]
        await _retire(known)

    async def aclose(self) -> None:
        """Closes every client; calls on their way end first."""
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
        """MachineRequest once for a session; while `known.making` is held."""
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
                        del self._profiles[profile]  # read anew next time: they may be put right by then
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
    """As botocore reads one, in a hundredth of the time where it is written as EC2 writes it."""
    if isinstance(value, str) and "T" in value:
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(value)
    read: datetime = parse_timestamp(value)
    return read


@functools.cache
def _models() -> Loader:
    """The reader of service models, which keeps what it has read; one for all sessions."""
    loader: Loader = aiobotocore.session.get_session().get_component("data_loader")
    return loader


async def _retire(profile: _Profile) -> None:
    for client in profile.clients.values():
        client.retired = True
        if not client.users:
            await client.stack.aclose()
