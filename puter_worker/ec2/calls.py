"""The one place through which every call to EC2 goes: paced, translated, and logged where it changes something."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Literal

import msgspec
import structlog
from botocore import xform_name

from puter_worker.ec2.answers import AnswerType
from puter_worker.ec2.errors import Ec2Error, Handling, ec2_error, is_of_a_call
from puter_worker.ec2.session import Sessions

# All that Puter ever asks of EC2, which is also what deploy/iam-policy.json allows. There is no action here that
# deletes, terminates or revokes: machines end themselves.
Action = Literal[
    "AuthorizeSecurityGroupIngress",
    "CreateKeyPair",
    "CreateSecurityGroup",
    "CreateTags",
    "DescribeImages",
    "DescribeInstanceTypes",
    "DescribeInstances",
    "DescribeKeyPairs",
    "DescribeSecurityGroups",
    "DescribeSubnets",
    "DescribeVpcs",
    "GetConsoleOutput",
    "ImportKeyPair",
    "ModifyInstanceAttribute",
    "RunInstances",
]
Pace = Callable[[str, int], Awaitable[None]]
"""Awaited before each call with its action and weight: how many instances RunInstances asks for, else 1."""
Throttled = Callable[[str], Awaitable[None]]
"""Awaited with the action after EC2 said that it was asked too fast."""

_READS = ("Describe", "Get")
_IDS = ("InstanceId", "InstanceIds", "Resources", "GroupId", "GroupName", "KeyName", "KeyPairId", "ClientToken")
_log = structlog.get_logger()


async def _at_once(_action: str, _weight: int) -> None:
    return None


async def _unheard(_action: str) -> None:
    return None


class Caller:
    """Calls EC2 with one profile's credentials in one region.

    Attributes:
        profile: AWS profile; None is the default credentials.
        region: AWS region.
    """

    def __init__(
        self,
        sessions: Sessions,
        *,
        profile: str | None,
        region: str,
        account: str | None = None,
        pace: Pace = _at_once,
        throttled: Throttled = _unheard,
    ) -> None:
        self.profile = profile
        self.region = region
        self._account = account
        self._sessions = sessions
        self._pace = pace
        self._throttled = throttled

    async def call(self, action: Action, answer: type[AnswerType], /, *, weight: int = 1, **params: Any) -> AnswerType:
        """Makes one call, once.

        Args:
            action: EC2's name of it; written out where it is called, so that a test can hold the policy to it.
            answer: what to read the answer as.
            weight: what it costs of a bucket counted in instances.
            params: as EC2 names them.

        Raises:
            Ec2Error: refused, unreached, or unknown.
        """
        await self._pace(action, weight)
        began = time.monotonic()
        try:
            raw = await self._made(action, params)
        except Ec2Error as error:
            if not action.startswith(_READS):
                _log.warning(
                    "ec2.refused",
                    action=action,
                    code=error.code,
                    doubtful=error.doubtful,
                    request_id=error.request_id,
                    duration_s=round(time.monotonic() - began, 3),
                    **_resources(params),
                )
            if error.handling is Handling.THROTTLED:
                await self._throttled(action)
            raise
        if not action.startswith(_READS):
            _log.info(
                "ec2.called",
                action=action,
                request_id=raw.get("ResponseMetadata", {}).get("RequestId"),
                duration_s=round(time.monotonic() - began, 3),
                **(_resources(params) | _resources(raw)),
            )
        try:
            return msgspec.convert(raw, answer)
        except msgspec.ValidationError as error:
            raise ec2_error(error) from None

    async def pages(self, action: Action, answer: type[AnswerType], /, **params: Any) -> AsyncIterator[AnswerType]:
        """Every page of a Describe call, each paced by itself.

        Raises:
            Ec2Error: see `call`.
        """
        token: str | None = None
        while True:
            more: dict[str, Any] = {} if token is None else {"NextToken": token}
            page = await self.call(action, answer, **(params | more))
            yield page
            if not page.next_token or page.next_token == token:
                return
            token = page.next_token

    async def _made(self, action: str, params: Mapping[str, Any]) -> dict[str, Any]:
        lent = None
        try:
            async with self._sessions.ec2(self.profile, self.region, account=self._account) as lent:
                raw: dict[str, Any] = await getattr(lent, xform_name(action))(**params)
                return raw
        except Exception as unread:
            if not is_of_a_call(unread):
                raise
            error = ec2_error(unread, profile=self.profile)
        if error.handling is Handling.CREDENTIALS:
            await self._sessions.forget(self.profile, lent)
        raise error


def _resources(named: Mapping[str, Any]) -> dict[str, Any]:
    """Of a call or an answer the ids and names that a log line shows, and nothing else of it."""
    shown = {xform_name(key): named[key] for key in _IDS if named.get(key)}
    instances = named.get("Instances")
    if instances:
        shown["instance_ids"] = [instance.get("InstanceId") for instance in instances]
    return shown
