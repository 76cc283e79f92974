"""Translates what botocore and aiohttp raise into errors of `puter_worker.errors`; nothing else does.

`refusals` has the table of EC2's error codes.
"""

from __future__ import annotations

import aiohttp
import msgspec
from botocore import exceptions as sdk
from botocore.parsers import ResponseParserError

from puter_worker.ec2.connection import why_not_reached
from puter_worker.ec2.refusals import meaning_of
from puter_worker.errors import (
    Ec2Error,
    Handling,
    InvalidCall,
    NotReached,
    StageError,
    Unanswered,
    fit_for_users,
)

# EC2 may answer these with an HTTP status ≥500; the code says that nothing was done.
_SURELY_NOT_DONE = frozenset({Handling.THROTTLED, Handling.OTHER_ZONE, Handling.QUOTA, Handling.CREDENTIALS})

# With these codes, AWS also refuses the keys of an account for which the region is not enabled:
# https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_temp_enable-regions.html
_REGION_MAY_BE_OFF = frozenset(
    {"AuthFailure", "InvalidClientTokenId", "UnrecognizedClientException", "RegionDisabledException"}
)
_SDK_ERRORS = (
    sdk.ClientError,
    sdk.BotoCoreError,
    ResponseParserError,
    aiohttp.ClientError,
    OSError,
    msgspec.ValidationError,
)


def is_of_a_call(error: Exception) -> bool:
    """Whether a call can raise this error; anything else is a defect and keeps its traceback."""
    return isinstance(error, _SDK_ERRORS)


def stage_error(
    error: BaseException, *, profile: str | None = None, region: str | None = None, service: str = "EC2"
) -> StageError:
    """Translates what a call raised; nothing else does.

    Args:
        error: one for which `is_of_a_call` is true; any other becomes Unanswered.
        profile: the AWS profile whose credentials were used; the message names it where the user should renew them.
        region: the region of the call.
        service: the name of the service that was called.
    """
    if isinstance(error, StageError):
        return error
    if isinstance(error, sdk.ClientError):
        return _refused(error, profile, region, service)
    return _not_answered(error, service)


def _refused(error: sdk.ClientError, profile: str | None, region: str | None, service: str) -> StageError:
    told = error.response.get("Error", {})
    metadata = error.response.get("ResponseMetadata", {})
    status = metadata.get("HTTPStatusCode")
    code = str(told.get("Code") or "")
    if not code or code.isdigit():  # the SDK puts the HTTP status in place of a code
        return Unanswered(f"HTTP {status or 'error'} from a proxy or load balancer instead of {service}'s answer")
    message = fit_for_users(str(told.get("Message") or f"{service} gave no reason"))
    handling, about = meaning_of(code, message, status)
    if handling is Handling.CREDENTIALS:
        message = f"{message}{_remedy(profile, region if code in _REGION_MAY_BE_OFF else None)}"
    elif code == "UnauthorizedOperation":
        message = f"{message} Give the worker's role the permission (deploy/iam-policy.json has all)."
    return Ec2Error(
        code,
        message,
        handling=handling,
        about=about,
        doubtful=handling is Handling.DOUBTFUL or ((status or 0) >= 500 and handling not in _SURELY_NOT_DONE),
        request_id=metadata.get("RequestId"),
    )


def _remedy(profile: str | None, region: str | None) -> str:
    login = f"aws sso login --profile {profile}" if profile else "aws sso login"
    or_else = f", or enable region {region} for the account if it is not" if region else ""
    return f": sign in on the worker's host (such as `{login}`) or renew them{or_else}; Puter then continues by itself"


def _not_answered(error: BaseException, service: str) -> StageError:
    name = type(error).__name__
    if isinstance(error, sdk.ParamValidationError):
        # The SDK's text quotes values, which may include user data.
        return InvalidCall("Puter composed a call that EC2's interface does not know: an internal error in Puter")
    if why := why_not_reached(error):
        return NotReached(f"{service} was not reached: {why}")
    if isinstance(error, ResponseParserError | msgspec.ValidationError):
        message = f"{service}'s answer could not be read"
    elif isinstance(error, sdk.ReadTimeoutError | TimeoutError):
        message = f"{service} did not answer in time"
    elif isinstance(error, OSError | sdk.HTTPClientError | sdk.ConnectionError | aiohttp.ClientError):
        message = f"the connection to {service} broke before its answer"
    else:
        message = f"the call to {service} ended in an unknown way"
    return Unanswered(f"{message} ({name})")
