"""Why credentials could not be resolved, in words: what their provider said, and what helps."""

from __future__ import annotations

import re

from botocore import exceptions as sdk

from puter_client.contract.key import shown
from puter_worker.ec2.aws_settings import settings_error
from puter_worker.ec2.connection import why_not_reached
from puter_worker.errors import CredentialsError, StageError, fit_for_users

_MAX_WORDS = 160
_MAX_READ = 2_000  # the pattern of keys takes time that grows with the square of a text without blanks
# What looks random is taken for a key: an access key id, or 32 characters with a digit and letters of both cases.
_KEY = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}"
    r"|(?=[\w+/=-]{32})(?=[\w+/=-]*\d)(?=[\w+/=-]*[a-z])(?=[\w+/=-]*[A-Z])[\w+/=-]+",
    re.ASCII,
)
_SSO = "sso"
# By botocore's name of the provider (its METHOD).
_REMEDIES = {
    "env": "correct AWS_ACCESS_KEY_ID and what belongs to it in the worker's environment",
    "assume-role": "check the profile's role_arn and source, and the role's trust policy",
    "assume-role-with-web-identity": "check the profile's role_arn, its token file, and the role's trust policy",
    "container-role": "check the role of the worker's container",
    "iam-role": "check the role of the worker's host",
    "shared-credentials-file": "correct them in the credentials file of the worker's host",
    "config-file": "correct them in the AWS config of the worker's host",
    _SSO: "sign in on the worker's host with `aws sso login{option}`",
}


def providers_words(text: str) -> str:
    """What a provider said: one line of at most 160 characters, without what looks like a key."""
    text = fit_for_users(_KEY.sub("…", text[:_MAX_READ]))
    return text if len(text) <= _MAX_WORDS else text[: _MAX_WORDS - 1] + "…"


def last_words(text: str) -> str:
    """The same of a program's output, whose end says most: at most the last 160 characters."""
    if len(text) > _MAX_READ:
        text = text[-_MAX_READ:].split(maxsplit=1)[-1]  # its first word may be the end of a key
    text = " ".join(_KEY.sub("…", text).split())
    return providers_words(text if len(text) <= _MAX_WORDS else "…" + text[1 - _MAX_WORDS :])


def unresolved(error: Exception, *, profile: str | None, provider: str) -> StageError:
    """Translates whatever is raised while credentials are resolved; there, nothing is a defect and nothing is doubtful.

    Args:
        error: what was raised.
        profile: the AWS profile; None is the default one.
        provider: botocore's name of the provider that raised it; "" while the providers were put together.
    """
    if not provider or isinstance(error, StageError | sdk.ConfigParseError | sdk.ProfileNotFound):
        return settings_error(error, profile)
    if isinstance(error, sdk.SSOError | sdk.TokenRetrievalError):
        provider = _SSO  # also as the source of a role
    option = f" --profile {profile}" if profile else ""
    remedy = _REMEDIES.get(provider, "correct them on the worker's host").format(option=option)
    return CredentialsError(
        f"the AWS credentials of {whose(profile)} cannot be resolved ({_said(error, provider)}): {remedy}; "
        "Puter then continues by itself"
    )


def none_found(profile: str | None) -> CredentialsError:
    """No provider has credentials for the profile."""
    option = f" --profile {profile}" if profile else ""
    return CredentialsError(
        f"the worker has no AWS credentials for {whose(profile)}: sign in on its host (such as "
        f"`aws sso login{option}`), or run `aws configure{option}` there; Puter then continues by itself"
    )


def no_mfa_code(profile: str | None) -> CredentialsError:
    """A role requires a code that only a person can give, each time its credentials end."""
    name = profile or "NAME"
    return CredentialsError(
        f"{whose(profile)} assumes a role with an MFA code (mfa_serial), and a worker cannot ask for one: use a "
        f"profile with `credential_process = aws configure export-credentials --profile {name}`, and give the code to "
        f"`aws sts get-caller-identity --profile {name}` on the worker's host"
    )


def not_yet(profile: str | None, provider: str, longest_s: float) -> CredentialsError:
    """A resolution takes long, and goes on."""
    return CredentialsError(
        f"the AWS credentials of {whose(profile)} are not there yet: {_who(provider)} has not answered, and is given "
        f"up after {longest_s:.0f} s"
    )


def timed_out(profile: str | None, provider: str, longest_s: float) -> CredentialsError:
    """A resolution took too long, and was given up."""
    return CredentialsError(
        f"the AWS credentials of {whose(profile)} cannot be resolved: {_who(provider)} did not answer within "
        f"{longest_s:.0f} s; try it on the worker's host; Puter tries again by itself"
    )


def _who(provider: str) -> str:
    return "its credential_process" if provider == "custom-process" else f"its provider ({provider or 'none yet'})"


def whose(profile: str | None) -> str:
    """The profile as messages name it."""
    return f"AWS profile {shown(profile)}" if profile else "the default AWS profile"


def _said(error: Exception, provider: str) -> str:
    """The provider's words, if it is known that they quote nothing secret, else the kind of the error."""
    if isinstance(error, sdk.ClientError):
        told = error.response.get("Error", {})
        return providers_words(f"{error.operation_name} was refused, {told.get('Code')}: {told.get('Message')}")
    if why := why_not_reached(error):
        return why
    if isinstance(error, sdk.BotoCoreError):
        return providers_words(str(error))
    if isinstance(error, OSError):
        file = f" {shown(error.filename, 100)}" if error.filename else ""
        return f"{error.strerror or type(error).__name__}{file}"
    if provider == _SSO and isinstance(error, KeyError | ValueError | TypeError | AttributeError):
        return f"its token cache in ~/.aws/sso/cache cannot be read, {type(error).__name__}"
    if isinstance(error, RuntimeError) and "still expired" in str(error):  # botocore has no class for it
        return "what its provider gave had expired already"
    return f"{type(error).__name__} in its provider {provider}"
