"""What EC2 answers when it does not do as asked, and what to do about it.

The table below is data. Its codes are those of https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html;
whatever botocore and aiohttp raise becomes one kind of error here and nowhere else.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

import aiohttp
import msgspec
from botocore import exceptions as sdk
from botocore.parsers import ResponseParserError

from puter_client.contract.errors import PuterError
from puter_client.contract.key import shown


class Handling(StrEnum):
    """What is to be done after an error."""

    AGAIN = "again"
    """Repeat it with the same token, after a pause."""
    THROTTLED = "throttled"
    """MachineRequest too fast: wait, ask more slowly."""
    OTHER_ZONE = "other_zone"
    """Nothing free here: another zone or later, with a new token."""
    QUOTA = "quota"
    """The account's limit: stop this target's launches, say which limit, try later."""
    SPLIT = "split"
    """MachineRequest for too much at once: ask in parts."""
    FAIL = "fail"
    """Repeating cannot help; the reason is for the user."""
    JUST_MADE = "just_made"
    """EC2 does not see yet what was just made: repeat."""
    ALREADY_THERE = "already_there"
    """It exists: read and compare."""
    CREDENTIALS = "credentials"
    """The worker may not ask now: wait until its operator has signed in again."""
    IDEMPOTENT_MISMATCH = "idempotent_mismatch"
    """The token was used with other parameters: look up what it launched, and adopt that."""
    IDEMPOTENT_TERMINATED = "idempotent_terminated"
    """What the token launched has ended."""
    DOUBTFUL = "doubtful"
    """Nobody knows whether it was done: look, and only then repeat with the same token."""


_TABLE: Mapping[Handling, tuple[str, ...]] = {
    Handling.AGAIN: ("InternalError", "InternalFailure", "ServiceUnavailable", "Unavailable"),
    Handling.THROTTLED: (
        "RequestLimitExceeded", "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled",
        "RequestThrottledException", "TooManyRequestsException", "SlowDown", "EC2ThrottledException",
    ),
    Handling.OTHER_ZONE: (
        "InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientReservedInstanceCapacity",
        "InsufficientCapacity", "InsufficientAddressCapacity", "InsufficientFreeAddressesInSubnet", "Unsupported",
    ),
    Handling.QUOTA: (
        "VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded", "PendingVerification",
        "VolumeLimitExceeded", "NetworkInterfaceLimitExceeded",
    ),
    Handling.SPLIT: ("ResourceCountExceeded", "FilterLimitExceeded"),
    Handling.JUST_MADE: ("InvalidInstanceID.NotFound", "InvalidGroup.NotFound"),
    Handling.ALREADY_THERE: ("InvalidGroup.Duplicate", "InvalidKeyPair.Duplicate", "InvalidPermission.Duplicate"),
    # The last four mean keys withdrawn or mistyped, or a clock that is wrong: nothing of it is the request's fault,
    # and the worker's operator can mend it while the request waits.
    Handling.CREDENTIALS: (
        "ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired",
        "InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch", "InvalidAccessKeyId",
    ),
    Handling.IDEMPOTENT_MISMATCH: ("IdempotentParameterMismatch",),
    Handling.IDEMPOTENT_TERMINATED: ("IdempotentInstanceTerminated",),
    # These would fail without a row too; they are here to be read.
    Handling.FAIL: (
        "UnauthorizedOperation", "AuthFailure", "OptInRequired", "Blocked", "InvalidKeyPair.NotFound",
        "VPCIdNotSpecified", "TagPolicyViolation", "InvalidAMIID.NotFound", "InvalidAMIID.Malformed",
        "InvalidAMIID.Unavailable", "InvalidParameterValue", "InvalidParameterCombination", "InvalidParameter",
    ),
}  # fmt: skip

HANDLING: Mapping[str, Handling] = MappingProxyType(
    {code: handling for handling, codes in _TABLE.items() for code in codes}
)
"""EC2's error code → what to do; codes without a row go by their HTTP status, see `handling_of`."""

# A server's error that says by its code that nothing was done.
_SURELY_NOT_DONE = frozenset({Handling.THROTTLED, Handling.OTHER_ZONE, Handling.QUOTA, Handling.CREDENTIALS})

# Raised inside the call requested, when the SDK first had to fetch credentials by one of these.
_CREDENTIAL_OPERATIONS = frozenset(
    {"AssumeRole", "AssumeRoleWithWebIdentity", "AssumeRoleWithSAML", "GetRoleCredentials", "CreateToken"}
)
_CREDENTIAL_ERRORS = (
    sdk.NoCredentialsError,
    sdk.PartialCredentialsError,
    sdk.CredentialRetrievalError,
    sdk.NoAuthTokenError,
    sdk.TokenRetrievalError,
    sdk.SSOError,
    sdk.RefreshWithMFAUnsupportedError,
    sdk.MetadataRetrievalError,
    sdk.UnknownCredentialError,
    sdk.InvalidConfigError,
    sdk.ConfigParseError,
)
_SDK_ERRORS = (
    sdk.ClientError,
    sdk.BotoCoreError,
    ResponseParserError,
    aiohttp.ClientError,
    OSError,
    msgspec.ValidationError,
)

_MAX_MESSAGE = 400
_URL = re.compile(r"([a-z][a-z0-9+.-]*://)(?:[^\s/@]*@)?([^\s/?#\"']+)[^\s\"']*", re.IGNORECASE)
_OPAQUE = re.compile(r"[A-Za-z0-9+/=_%-]{100,}")
_ENCODED_REASON = re.compile(r"\s*Encoded authorization failure message:.*", re.DOTALL)


class Ec2Error(PuterError):
    """EC2 did not do as asked, or nobody knows whether it did; the text is fit for users: no secrets, one line.

    Attributes:
        code: EC2's name of the error, or the SDK's or Puter's where EC2 was not reached.
        message: what was wrong, and where Puter knows it, what to do.
        request_id: AWS's id of the request, if it was answered.
        http_status: of the answer, if there was one.
        handling: what is to be done.
        doubtful: whether the call may have had its effect all the same.
    """

    code: str  # type: ignore[misc]  # EC2's codes are many: here it is the instance that has one

    def __init__(
        self,
        code: str,
        message: str,
        *,
        handling: Handling = Handling.FAIL,
        doubtful: bool = False,
        request_id: str | None = None,
        http_status: int | None = None,
    ) -> None:
        self.code = code
        self.message = fit_for_users(message)
        self.handling = handling
        self.doubtful = doubtful
        self.request_id = request_id
        self.http_status = http_status
        super().__init__(f"{code}: {self.message}")


class ProfileMissing(Ec2Error):
    """This worker's host has no such AWS profile; another worker's may."""


class WrongAccount(Ec2Error):
    """The credentials have become another account's: what belongs to this one waits until they are put right."""

    def __init__(self, profile: str | None, *, wanted: str, found: str) -> None:
        of = f"profile {profile!r}" if profile else "the default profile"
        message = f"the credentials of {of} are account {found}'s now, not {wanted}'s: put them right where workers run"
        super().__init__("WrongAccount", message, handling=Handling.CREDENTIALS)


def handling_of(code: str, http_status: int | None = None) -> Handling:
    """What to do about an error code of EC2's.

    Args:
        code: as in an answer, or as in an instance's StateReason (`Server.InsufficientInstanceCapacity`).
        http_status: of the answer; decides for codes that have no row.
    """
    row = HANDLING.get(code.removeprefix("Client.").removeprefix("Server."))
    if row:
        return row
    if code.startswith("Throttling"):
        return Handling.THROTTLED
    return Handling.DOUBTFUL if http_status is not None and http_status >= 500 else Handling.FAIL


def fit_for_users(message: str) -> str:
    """A message of EC2's or the SDK's on one line, short, without paths of URLs, tokens and other opaque runs."""
    message = _ENCODED_REASON.sub("", message)
    message = _URL.sub(r"\1\2", message)
    message = _OPAQUE.sub("…", message)
    message = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    return message if len(message) <= _MAX_MESSAGE else message[: _MAX_MESSAGE - 1] + "…"


def is_of_a_call(error: Exception) -> bool:
    """Whether calls can end like this; anything else is a defect and keeps its traceback."""
    return isinstance(error, _SDK_ERRORS) or _refreshed_in_vain(error)


def _refreshed_in_vain(error: BaseException) -> bool:
    # botocore's only word for credentials that are expired as soon as they were fetched.
    return isinstance(error, RuntimeError) and "credentials" in str(error)


def ec2_error(error: BaseException, *, profile: str | None = None) -> Ec2Error:
    """The one translation of whatever a call raised.

    Args:
        error: one that is_of_a_call; others come back as doubtful, under the name of their class.
        profile: whose credentials were used; named in what to do about them.
    """
    if isinstance(error, Ec2Error):
        return error
    if isinstance(error, sdk.ClientError):
        return _refused(error, profile)
    if isinstance(error, sdk.ProfileNotFound):
        return ProfileMissing(
            "ProfileNotFound",
            f"this worker has no AWS profile {shown(profile or error.kwargs.get('profile'))}: add it to the AWS "
            "config of the worker's host, or name another profile",
            handling=Handling.CREDENTIALS,
        )
    if isinstance(error, _CREDENTIAL_ERRORS) or _refreshed_in_vain(error):
        # The texts of credential processes and of token files are not shown: they can hold anything.
        return Ec2Error(
            type(error).__name__.removesuffix("Error"),
            f"the worker has no usable AWS credentials{_remedy(profile)}",
            handling=Handling.CREDENTIALS,
        )
    return _not_answered(error)


def _refused(error: sdk.ClientError, profile: str | None) -> Ec2Error:
    told = error.response.get("Error", {})
    metadata = error.response.get("ResponseMetadata", {})
    status = metadata.get("HTTPStatusCode")
    code = str(told.get("Code") or "Unknown")
    message = str(told.get("Message") or "EC2 gave no reason")
    # An error that is not in EC2's form is perhaps not EC2's, but of something on the way to it.
    handling = handling_of(code, status) if told.get("Code") else Handling.DOUBTFUL
    if error.operation_name in _CREDENTIAL_OPERATIONS:
        handling = Handling.CREDENTIALS
    if handling is Handling.CREDENTIALS:
        message = f"{fit_for_users(message)}{_remedy(profile)}"
    elif code == "UnauthorizedOperation":
        message = f"{fit_for_users(message)} Give the worker's role the permission (deploy/iam-policy.json has all)."
    return Ec2Error(
        code,
        message,
        handling=handling,
        doubtful=handling is Handling.DOUBTFUL or ((status or 0) >= 500 and handling not in _SURELY_NOT_DONE),
        request_id=metadata.get("RequestId"),
        http_status=status,
    )


def _remedy(profile: str | None) -> str:
    login = f"aws sso login --profile {profile}" if profile else "aws sso login"
    return f": on the worker's host sign in (such as `{login}`) or renew them; Puter goes on by itself then"


def _not_answered(error: BaseException) -> Ec2Error:
    name = type(error).__name__
    if isinstance(error, sdk.NoRegionError | sdk.InvalidRegionError | sdk.UnknownRegionError):
        return Ec2Error(name.removesuffix("Error"), "no such AWS region: give one like us-east-1 with --region")
    if isinstance(error, sdk.ParamValidationError):
        # Its own text quotes values, user data among them.
        return Ec2Error("ParamValidation", "Puter composed a call that EC2's interface does not know: a defect")
    if _never_sent(error):
        return Ec2Error(name.removesuffix("Error"), f"EC2 was not reached: {_where(error)}", handling=Handling.AGAIN)
    if isinstance(error, ResponseParserError | msgspec.ValidationError):
        message = "EC2's answer could not be read"
    elif isinstance(error, sdk.ReadTimeoutError | TimeoutError):
        message = "EC2 did not answer in time"
    elif isinstance(error, OSError | sdk.HTTPClientError | sdk.ConnectionError | aiohttp.ClientError):
        message = "the connection to EC2 broke before its answer"
    else:
        message = "the call to EC2 ended in an unknown way"
    return Ec2Error(name.removesuffix("Error"), message, handling=Handling.DOUBTFUL, doubtful=True)


def _never_sent(error: BaseException) -> bool:
    if isinstance(error, sdk.EndpointConnectionError):
        # aiobotocore raises it also for a connection that broke in the middle; the cause tells them apart.
        cause = error.kwargs.get("error")
        return isinstance(cause, aiohttp.ClientConnectorError | socket.gaierror)
    before_sending = (
        sdk.ConnectTimeoutError, sdk.SSLError, sdk.ProxyConnectionError, sdk.EndpointResolutionError,
        sdk.InvalidProxiesConfigError, aiohttp.ClientConnectorError, socket.gaierror, ConnectionRefusedError,
    )  # fmt: skip
    return isinstance(error, before_sending)


def _where(error: BaseException) -> str:
    endpoint = getattr(error, "kwargs", {}).get("endpoint_url") or getattr(error, "kwargs", {}).get("proxy_url")
    return str(endpoint) if endpoint else "is the network up?"
