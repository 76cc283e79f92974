"""Translates what botocore and aiohttp raise into errors of `puter_worker.errors`; nothing else does.

`refusals` has the table of EC2's error codes.
"""

from __future__ import annotations

import aiohttp
import msgspec
from botocore import exceptions as sdk
from botocore.parsers import ResponseParserError

from puter_client.contract.key import shown
from puter_worker.ec2.connection import why_not_reached
from puter_worker.ec2.refusals import meaning_of
from puter_worker.errors import (
    About,
    CredentialsError,
    Ec2Error,
    Handling,
    InvalidCall,
    NotReached,
    ProfileMissing,
    StageError,
    Unanswered,
    UnknownRegion,
    fit_for_users,
)

# EC2 may answer these with an HTTP status ≥500; the code says that nothing was done.
_SURELY_NOT_DONE = frozenset({Handling.THROTTLED, Handling.OTHER_ZONE, Handling.QUOTA, Handling.CREDENTIALS})

# The SDK fetches credentials with these, inside the call that needs them; their errors are raised by that call.
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


def is_of_a_call(error: Exception) -> bool:
    """Whether a call can raise this error; anything else is a defect and keeps its traceback."""
    return isinstance(error, _SDK_ERRORS) or _refresh_failed(error)


def _refresh_failed(error: BaseException) -> bool:
    # botocore has no error class for credentials that have expired by the time they are fetched.
    return isinstance(error, RuntimeError) and "credentials" in str(error)


def stage_error(error: BaseException, *, profile: str | None = None) -> StageError:
    """Translates what a call raised; nothing else does.

    Args:
        error: one for which `is_of_a_call` is true; any other becomes Unanswered.
        profile: the AWS profile whose credentials were used; the message names it where the user should renew them.
    """
    if isinstance(error, StageError):
        return error
    if isinstance(error, sdk.ClientError):
        return _refused(error, profile)
    if isinstance(error, sdk.ProfileNotFound):
        return ProfileMissing(
            f"this worker has no AWS profile {shown(profile or error.kwargs.get('profile'))}: add it to the AWS "
            "config of the worker's host, or name another profile"
        )
    if isinstance(error, _CREDENTIAL_ERRORS) or _refresh_failed(error):
        # The SDK's text is not shown: it may quote a credential process or a token file, and so a secret.
        return CredentialsError(f"the worker has no usable AWS credentials{_remedy(profile)}")
    return _not_answered(error)


def _refused(error: sdk.ClientError, profile: str | None) -> StageError:
    told = error.response.get("Error", {})
    metadata = error.response.get("ResponseMetadata", {})
    status = metadata.get("HTTPStatusCode")
    code = str(told.get("Code") or "")
    if not code or code.isdigit():  # the SDK puts the HTTP status in place of a code
        return Unanswered(f"HTTP {status or 'error'} from a proxy or load balancer instead of EC2's answer")
    message = str(told.get("Message") or "EC2 gave no reason")
    handling, about = meaning_of(code, message, status)
    if error.operation_name in _CREDENTIAL_OPERATIONS:
        handling, about = Handling.CREDENTIALS, About.ACCOUNT
    if handling is Handling.CREDENTIALS:
        message = f"{fit_for_users(message)}{_remedy(profile)}"
    elif code == "UnauthorizedOperation":
        message = f"{fit_for_users(message)} Give the worker's role the permission (deploy/iam-policy.json has all)."
    return Ec2Error(
        code,
        message,
        handling=handling,
        about=about,
        doubtful=handling is Handling.DOUBTFUL or ((status or 0) >= 500 and handling not in _SURELY_NOT_DONE),
        request_id=metadata.get("RequestId"),
    )


def _remedy(profile: str | None) -> str:
    login = f"aws sso login --profile {profile}" if profile else "aws sso login"
    return f": sign in on the worker's host (such as `{login}`) or renew them; Puter then continues by itself"


def _not_answered(error: BaseException) -> StageError:
    name = type(error).__name__
    if isinstance(error, sdk.NoRegionError | sdk.InvalidRegionError | sdk.UnknownRegionError):
        return UnknownRegion("no such AWS region: give one like us-east-1 with --region")
    if isinstance(error, sdk.ParamValidationError):
        # The SDK's text quotes values, which may include user data.
        return InvalidCall("Puter composed a call that EC2's interface does not know: an internal error in Puter")
    if why := why_not_reached(error):
        return NotReached(f"EC2 was not reached: {why}")
    if isinstance(error, ResponseParserError | msgspec.ValidationError):
        message = "EC2's answer could not be read"
    elif isinstance(error, sdk.ReadTimeoutError | TimeoutError):
        message = "EC2 did not answer in time"
    elif isinstance(error, OSError | sdk.HTTPClientError | sdk.ConnectionError | aiohttp.ClientError):
        message = "the connection to EC2 broke before its answer"
    else:
        message = "the call to EC2 ended in an unknown way"
    return Unanswered(f"{message} ({name})")
