"""Every call to EC2 goes through here: it is paced, its errors are translated, and changes are logged."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Literal

import msgspec
import structlog
from botocore import xform_name

from puter_worker.ec2.answers import AnswerType
from puter_worker.ec2.errors import is_of_a_call, stage_error
from puter_worker.ec2.session import Sessions
from puter_worker.errors import Handling, StageError
from puter_worker.metrics import NO_METRICS, Metrics

# All actions that Puter ever calls; deploy/iam-policy.json allows exactly these. None of them deletes, terminates or
# revokes: machines end themselves.
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
Pace = Callable[[str], Awaitable[None]]
"""Awaited with its action before each call."""
Throttled = Callable[[str], Awaitable[None]]
"""Awaited with the action after EC2 has refused a call because of its rate limit."""

_READS = ("Describe", "Get")
_IDS = ("InstanceId", "InstanceIds", "Resources", "GroupId", "GroupName", "KeyName", "KeyPairId", "ClientToken")
_log = structlog.get_logger()


async def _at_once(_action: str) -> None:
    return None


async def _unheard(_action: str) -> None:
    return None


class Caller:
    """Calls EC2 with one profile's credentials in one region.

    Attributes:
        profile: the AWS profile; None is the default credentials.
        region: the AWS region.
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
        metrics: Metrics = NO_METRICS,
    ) -> None:
        self.profile = profile
        self.region = region
        self._account = account
        self._sessions = sessions
        self._pace = pace
        self._throttled = throttled
        self._metrics = metrics

    async def call(self, action: Action, answer: type[AnswerType], /, **params: Any) -> AnswerType:
        """Makes one call and does not repeat it.

        Args:
            action: EC2's name of the call, as a literal, so that a test can compare the IAM policy with the code.
            answer: the type to decode the answer to.
            params: the call's parameters, with EC2's names.

        Raises:
            StageError: EC2 refused the call, was not reached, or did not answer.
        """
        await self._pace(action)
        began = time.monotonic()
        try:
            raw = await self._made(action, params)
        except StageError as error:
            self._metrics.called(action, error.code, time.monotonic() - began)
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
        self._metrics.called(action, "ok", time.monotonic() - began)
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
            raise stage_error(error) from None

    async def pages(self, action: Action, answer: type[AnswerType], /, **params: Any) -> AsyncIterator[AnswerType]:
        """Every page of a Describe call; each page is a call of its own and paced as one.

        Raises:
            StageError: see `call`.
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
            error = stage_error(unread, profile=self.profile, region=self.region)
        if error.handling is Handling.CREDENTIALS:
            await self._sessions.forget(self.profile, lent)
        raise error


def _resources(named: Mapping[str, Any]) -> dict[str, Any]:
    """The ids and names of a call or an answer; a log line shows these and nothing else."""
    shown = {xform_name(key): named[key] for key in _IDS if named.get(key)}
    instances = named.get("Instances")
    if instances:
        shown["instance_ids"] = [instance.get("InstanceId") for instance in instances]
    return shown
