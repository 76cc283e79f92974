"""This computer's public address: the default for who may reach port 22."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

from puter_client.contract.errors import InvalidInput
from puter_client.contract.readers import parse_cidr
from puter_client.timings import DEFAULT_TIMINGS

CHECK_URL = "https://checkip.amazonaws.com"
CHOICES = "name the networks that may use ssh with --ssh-from CIDR, or use --ssh-from none"
SILENT = "did not answer in time"
LOOPBACK = "127.0.0.1/32"
_LONGEST = 64  # bytes read of the answer: more than any address has


class AddressUnknown(InvalidInput):
    """This computer's public address could not be found."""


def own_cidr(
    environ: Mapping[str, str], *, url: str | None = None, timeout_s: float = DEFAULT_TIMINGS.own_address_s
) -> str:
    """The network that holds only this computer, such as `203.0.113.7/32` or `2001:db8::7/128`.

    With an AWS simulated on this computer (`AWS_ENDPOINT_URL` on loopback) nothing is looked up.

    Args:
        environ: environment of this process.
        url: a service that answers with the caller's address; None is Amazon's.
        timeout_s: limit for the whole look-up.

    Raises:
        AddressUnknown: the service does not answer in time, or not with an address.
    """
    if is_simulated(environ):
        return LOOPBACK
    answer = _ask(url or CHECK_URL, timeout_s)
    if isinstance(answer, str):
        raise _unknown(answer)
    try:
        address = ipaddress.ip_address(answer.decode("ascii").strip())
        cidr = parse_cidr(str(address))
    except ValueError:
        raise _unknown("the answer was not an address") from None
    if address.is_unspecified or address.is_loopback or address.is_multicast:
        raise _unknown(f"the answer was {address}")
    return cidr


def _unknown(why: str) -> AddressUnknown:
    return AddressUnknown(f"this computer's public address is unknown ({why}): {CHOICES}")


def is_simulated(environ: Mapping[str, str]) -> bool:
    """Whether AWS is simulated on this computer."""
    url = environ.get("AWS_ENDPOINT_URL_EC2") or environ.get("AWS_ENDPOINT_URL") or ""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_everybody(cidr: str) -> bool:
    """Whether a network contains all addresses."""
    return ipaddress.ip_network(cidr).prefixlen == 0


def _ask(url: str, timeout_s: float) -> bytes | str:
    """The first bytes of the answer, or the reason why there is none."""
    answers: list[bytes | str] = []
    host = urlsplit(url).hostname

    def ask() -> None:
        import http.client
        import urllib.request

        try:
            with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # noqa: S310 - the address is Puter's own
                answers.append(answer.read(_LONGEST))
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None)
            answers.append(f"{host} {_in_words(reason if isinstance(reason, Exception) else error)}")

    # In a thread that may outlive this call: waiting for a silent name server has no limit.
    thread = threading.Thread(target=ask, daemon=True, name="own address")
    thread.start()
    thread.join(timeout_s)
    return answers[0] if answers else f"{host} {SILENT}"


def _in_words(error: Exception) -> str:
    """Why a service did not answer, without the names of Python's exceptions."""
    import socket
    import ssl
    import urllib.error

    if isinstance(error, urllib.error.HTTPError):
        return f"answered with HTTP status {error.code}"
    for kind, words in (
        (TimeoutError, SILENT),
        (socket.gaierror, "could not be resolved"),
        (ssl.SSLError, "has no certificate that this computer trusts"),
        (ConnectionError, "refused the connection"),
    ):
        if isinstance(error, kind):
            return words
    return "cannot be reached" if isinstance(error, OSError) else "did not answer with HTTP"
