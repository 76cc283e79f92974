"""This host's AWS settings: the files under `~/.aws` and `AWS_*` variables, and what is wrong with them."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore import exceptions as sdk
from botocore.utils import get_environ_proxies

from puter_client.contract.key import shown
from puter_worker.errors import AwsSettingsError, ProfileMissing, StageError, UnknownRegion, fit_for_users

if TYPE_CHECKING:
    from aiobotocore.session import AioSession

DEFAULT_REGION = "us-east-1"
"""The region if neither a request nor this host's AWS settings name one."""

_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")
_PROFILE_VARIABLES = ("AWS_DEFAULT_PROFILE", "AWS_PROFILE")  # in botocore's order
_LIKE = "give one like us-east-1 (--region, AWS_REGION, or region in the AWS config)"
_CORRECT = "correct it in the worker's environment or the AWS config of its host"


def region_of(core: AioSession) -> str | None:
    """The region that the environment names, else that of the session's profile, if any.

    The order is that of AWS CLI version 2 and of the other SDKs, for a profile that a request names as well as for
    that of AWS_PROFILE: https://docs.aws.amazon.com/sdkref/latest/guide/feature-region.html. botocore itself does not
    read AWS_REGION.
    """
    of_profile: str | None = core.get_scoped_config().get("region")  # also tells whether there is such a profile
    named = (os.environ.get(name) for name in _REGION_VARIABLES)
    return next((region for region in named if region), of_profile)


def default_profile() -> str:
    """The name of the profile that is used if none is named."""
    return next((os.environ[name] for name in _PROFILE_VARIABLES if os.environ.get(name)), "default")


def with_program(profiles: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
    """The profiles whose credentials a program gives: themselves, or those of a profile that they take theirs from.

    `profiles`: the settings of each, of the config and the credentials file.
    """

    def has(name: str, seen: frozenset[str]) -> bool:
        settings = profiles.get(name, {})
        if "credential_process" in settings:
            return True
        source = settings.get("source_profile")
        return isinstance(source, str) and source not in seen and has(source, seen | {source})

    return frozenset(name for name in profiles if has(name, frozenset({name})))


def check_connection_settings(core: AioSession, endpoint_url: str) -> None:
    """Check what a call would find out only when it is sent.

    Raises:
        AwsSettingsError: the file of CA certificates or the address of a proxy cannot be used.
    """
    bundle = core.get_config_variable("ca_bundle")
    name = "AWS_CA_BUNDLE" if os.environ.get("AWS_CA_BUNDLE") else "ca_bundle of the AWS config"
    if bundle is None and "REQUESTS_CA_BUNDLE" in os.environ:  # read by botocore.endpoint.EndpointCreator
        name, bundle = "REQUESTS_CA_BUNDLE", os.environ["REQUESTS_CA_BUNDLE"]
    if bundle is not None:
        try:
            # An empty name would switch the check of certificates off.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(bundle)
        except OSError as error:
            why = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
            raise AwsSettingsError(f"{name} {shown(bundle, 200)} cannot be used: {why}; {_CORRECT}") from None
    for scheme, proxy in get_environ_proxies(endpoint_url).items():
        if scheme == urlsplit(endpoint_url).scheme and not _is_proxy(proxy):
            # Its value is not shown: it may hold a password.
            variable = f"{scheme.upper()}_PROXY"
            raise AwsSettingsError(f"{variable} is not the address of an HTTP proxy, http://HOST:PORT; {_CORRECT}")


def _is_proxy(address: str) -> bool:
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def settings_error(error: Exception, profile: str | None) -> StageError:
    """Translates what is raised while files are read, and sessions and clients are made: no call is at fault.

    Args:
        error: what was raised.
        profile: the AWS profile that was asked for; None is the default one.
    """
    match error:
        case StageError():
            return error
        case sdk.ProfileNotFound():
            return _missing(profile, error.kwargs.get("profile"))
        case sdk.ConfigParseError():
            return AwsSettingsError(f"{_where(error)}; correct it on the worker's host")
        case sdk.NoRegionError():
            return UnknownRegion(f"no AWS region: {_LIKE}")
        case sdk.InvalidRegionError():
            region = shown(error.kwargs.get("region_name"))
            return UnknownRegion(f"{region} is not the name of an AWS region: {_LIKE}")
    why = fit_for_users(f"{type(error).__name__}: {error}")[:200]
    return AwsSettingsError(f"the worker's AWS settings cannot be used ({why}); {_CORRECT}")


def _missing(profile: str | None, default: object) -> StageError:
    if profile is not None:
        return ProfileMissing(
            f"this worker has no AWS profile {shown(profile)}: add it to the AWS config of the worker's host, or name "
            "another profile"
        )
    variable = next((name for name in _PROFILE_VARIABLES if name in os.environ), _PROFILE_VARIABLES[-1])
    files = " and ".join(_described(path) for path in _files())
    return AwsSettingsError(
        f"{variable} is {shown(default)}, and the AWS config of the worker's host ({files}) has no such profile: "
        f"add it there, or change {variable}"
    )


def _described(path: Path) -> str:
    # The SDK takes a file that it may not read for an empty one.
    return shown(path, 200) + (", which cannot be read" if path.exists() and not os.access(path, os.R_OK) else "")


def _files() -> tuple[Path, Path]:
    """The config and the credentials file, where AWS's tools look for them."""
    config = os.environ.get("AWS_CONFIG_FILE", "~/.aws/config")
    credentials = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    return Path(config).expanduser(), Path(credentials).expanduser()


def _where(error: sdk.ConfigParseError) -> str:
    """The file that cannot be parsed, with the line if the parser tells it. Never its text, which may hold keys."""
    path, cause = str(error.kwargs.get("path")), error.kwargs.get("error")
    line, why = getattr(cause, "lineno", None), "cannot be parsed"
    if isinstance(cause, UnicodeDecodeError):
        line, why = _line_of_bad_text(Path(path)), "is not valid UTF-8"
    elif option := getattr(cause, "option", None):
        why = f"the setting {shown(option)} is there twice"
    elif section := getattr(cause, "section", None):
        why = f"the section {shown(section)} is there twice"
    elif found := getattr(cause, "errors", None):
        line = found[0][0]
    return f"{shown(path, 200)}: {why}" if line is None else f"{shown(path, 200)}: line {line}: {why}"


def _line_of_bad_text(path: Path) -> int | None:
    with suppress(OSError):
        raw = path.read_bytes()
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            return raw.count(b"\n", 0, error.start) + 1
    return None
