"""This machine's own address as the internet sees it: who may reach port 22 when nobody says otherwise."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

from puter_client.contract.errors import InvalidInput

CHECK_URL = "https://checkip.amazonaws.com"
TIMEOUT_S = 2.0
CHOICES = "say who may use ssh with --ssh-from CIDR, or --ssh-from none"
SILENT = "does not answer in time"
LOOPBACK = "127.0.0.1/32"
_LONGEST = 64  # an address and a line end, with room


class AddressUnknown(InvalidInput):
    """This machine's own address could not be found out."""


def own_cidr(environ: Mapping[str, str], *, url: str | None = None, timeout_s: float = TIMEOUT_S) -> str:
    """The network of this one machine, `203.0.113.7/32` or `2001:db8::7/128`.

    With an AWS that is simulated on this host (`AWS_ENDPOINT_URL` on loopback) nothing is looked up.

    Args:
        environ: of this process.
        url: a service that answers with the caller's address; None is Amazon's.
        timeout_s: for the whole look-up.

    Raises:
        AddressUnknown: it does not answer in time, or with something else.
    """
    if is_simulated(environ):
        return LOOPBACK
    answer = _ask(url or CHECK_URL, timeout_s)
    if isinstance(answer, str):
        raise AddressUnknown(f"this machine's own address is not known ({answer}): {CHOICES}")
    try:
        address = ipaddress.ip_address(answer.decode("ascii").strip())
    except ValueError:
        raise AddressUnknown(f"this machine's own address is not known (no address was answered): {CHOICES}") from None
    if address.is_unspecified or address.is_loopback or address.is_multicast:
        raise AddressUnknown(f"this machine's own address is not known ({address} was answered): {CHOICES}")
    return str(ipaddress.ip_network(address))


def is_simulated(environ: Mapping[str, str]) -> bool:
    """Whether AWS is a stand-in on this host."""
    url = environ.get("AWS_ENDPOINT_URL_EC2") or environ.get("AWS_ENDPOINT_URL") or ""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_everybody(cidr: str) -> bool:
    """Whether a network holds every address there is."""
    return ipaddress.ip_network(cidr).prefixlen == 0


def _ask(url: str, timeout_s: float) -> bytes | str:
    """The answer's first bytes, or in a few words why there is none."""
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

    # In a thread that may be left behind: a name server that says nothing is waited for without any limit.
    thread = threading.Thread(target=ask, daemon=True, name="own address")
    thread.start()
    thread.join(timeout_s)
    return answers[0] if answers else f"{host} {SILENT}"


def _in_words(error: Exception) -> str:
    """What a service did that did not answer; a name of Python's own says nothing to most people."""
    import socket
    import ssl
    import urllib.error

    if isinstance(error, urllib.error.HTTPError):
        return f"answers with HTTP status {error.code}"
    for kind, words in (
        (TimeoutError, SILENT),
        (socket.gaierror, "is not found by its name, as without a network"),
        (ssl.SSLError, "has no certificate that is trusted here"),
        (ConnectionError, "takes no connection"),
    ):
        if isinstance(error, kind):
            return words
    return "cannot be reached" if isinstance(error, OSError) else "answers with something else than HTTP"
