"""Why a call never reached AWS, told by what the SDK and aiohttp raise.

Whether a call was sent decides whether it may have had its effect. So only errors that are raised before the first byte
of a call is sent are named here; whatever else goes wrong with a connection is doubtful.
"""

from __future__ import annotations

import errno
import socket
import ssl
from urllib.parse import urlsplit

import aiohttp
from botocore import exceptions as sdk

from puter_client.contract.key import shown

_NETWORK = "the network of the worker's host"
_PROXY = "check HTTPS_PROXY and NO_PROXY in the worker's environment"
_TLS = (
    "if the certificate is of a CA of your own, set AWS_CA_BUNDLE in the worker's environment to a file with the "
    "CA's certificate"
)


def why_not_reached(error: BaseException) -> str | None:
    """Why a call was never sent, with the host and what to do; None: it may have been sent."""
    cause = getattr(error, "kwargs", {}).get("error")
    where = _host_of(getattr(error, "kwargs", {}).get("endpoint_url"))
    match error:
        case sdk.ProxyConnectionError():
            return f"the proxy {_host_of(error.kwargs.get('proxy_url'))} {_of_proxy(cause)}: {_PROXY}"
        case sdk.SSLError():
            return f"TLS with {where} failed ({_of_tls(cause)}): {_TLS}"
        case sdk.ConnectTimeoutError():
            return f"{where} did not accept a connection in time: check {_NETWORK}, or whether it needs HTTPS_PROXY"
        case sdk.EndpointConnectionError() if isinstance(cause, aiohttp.ClientConnectorError | socket.gaierror):
            # aiobotocore raises this also for a connection that broke during the call; the cause tells them apart.
            return _not_connected(cause, where)
        case aiohttp.ClientConnectorError() | socket.gaierror() | ConnectionRefusedError():
            return _not_connected(error, where)
        case sdk.EndpointResolutionError():
            return f"AWS has no endpoint for this region with these settings ({shown(error, 200)})"
    return None


def _not_connected(error: BaseException, where: str) -> str:
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    remedy = f"check the region's name, and {_NETWORK}" if isinstance(inner, socket.gaierror) else f"check {_NETWORK}"
    if isinstance(error, aiohttp.ClientConnectorError):
        if where == "AWS":
            where = error.host
        elif error.host != urlsplit(f"//{where}").hostname:
            where, remedy = f"the proxy {error.host}:{error.port}", _PROXY
    return f"{where} {_of_connection(inner)}: {remedy}"


def _of_connection(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno == errno.ECONNREFUSED:
        return "refused the connection"
    why = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
    return f"cannot be resolved ({why})" if isinstance(error, socket.gaierror) else f"cannot be connected to ({why})"


def _of_proxy(cause: object) -> str:
    if isinstance(cause, aiohttp.ClientHttpProxyError):
        return f"refused the connection (HTTP {cause.status} {cause.message})"
    return _of_connection(cause.os_error) if isinstance(cause, aiohttp.ClientConnectorError) else "cannot be used"


def _of_tls(cause: object) -> str:
    inner = getattr(cause, "certificate_error", None) or getattr(cause, "os_error", None) or cause
    if isinstance(inner, ssl.SSLCertVerificationError):
        return inner.verify_message
    if isinstance(inner, ssl.SSLError) and inner.reason:
        return inner.reason.lower().replace("_", " ")
    return type(inner).__name__ if isinstance(inner, BaseException) else "no reason given"


def _host_of(url: object) -> str:
    if not isinstance(url, str):
        return "AWS"
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2] or "AWS"
