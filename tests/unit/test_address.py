"""This computer's public address, looked up at a server on loopback instead of Amazon's."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from puter_client.address import LOOPBACK, AddressUnknown, is_everybody, own_cidr

Serve = Callable[[bytes], str]


@contextmanager
def serving(answer: bytes, status: int = 200) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("answer", "cidr"),
    [(b"203.0.113.7\n", "203.0.113.7/32"), (b"2001:db8::7", "2001:db8::7/128")],
)
def test_the_address_that_is_answered_is_a_network_of_one(answer: bytes, cidr: str) -> None:
    with serving(answer) as url:
        assert own_cidr({}, url=url) == cidr


@pytest.mark.parametrize(
    "answer", [b"", b"<html>log in first</html>", b"0.0.0.0", b"127.0.0.1", b"\xff", b"1.2.3.4/0", b"fe80::1%eth0"]
)
def test_anything_else_is_refused_and_the_choices_are_named(answer: bytes) -> None:
    with serving(answer) as url, pytest.raises(AddressUnknown, match="--ssh-from CIDR, or use --ssh-from none"):
        own_cidr({}, url=url)


def test_an_error_of_the_service_is_refused() -> None:
    with serving(b"203.0.113.7", status=503) as url, pytest.raises(AddressUnknown, match="HTTP status 503"):
        own_cidr({}, url=url)


def test_a_service_that_is_not_there_is_one_line() -> None:
    with pytest.raises(AddressUnknown) as caught:
        own_cidr({}, url="http://127.0.0.1:1/")
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (socket.gaierror(-2, "Name or service not known"), "could not be resolved"),
        (ConnectionRefusedError(111, "Connection refused"), "refused the connection"),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), "has no certificate that this computer trusts"),
        (TimeoutError("timed out"), "did not answer in time"),
        (OSError(101, "Network is unreachable"), "cannot be reached"),
    ],
)
def test_why_there_is_no_answer_is_told_in_words(error: OSError, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("socket.create_connection", connect)
    with pytest.raises(AddressUnknown) as caught:
        own_cidr({}, url="http://checkip.example/", timeout_s=10.0)
    assert str(caught.value).startswith(f"this computer's public address is unknown (checkip.example {said}): ")


def test_a_service_that_speaks_no_http_is_told_of_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4_096)
                connection.sendall(b"220 mail.example\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(AddressUnknown, match="did not answer with HTTP"):
            own_cidr({}, url=f"http://127.0.0.1:{server.getsockname()[1]}/", timeout_s=10.0)
        thread.join()


def test_a_service_that_says_nothing_is_waited_for_no_longer_than_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(AddressUnknown, match="is unknown"):
        own_cidr({}, url=f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout_s=0.05)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_EC2"])
def test_with_a_simulated_aws_nothing_is_looked_up(name: str, host: str) -> None:
    assert own_cidr({name: f"http://{host}:5000"}, url="http://127.0.0.1:1/") == LOOPBACK


@pytest.mark.parametrize("url", ["https://vpce.example.com", "no url", "http://[x", "http://10.0.0.1"])
def test_another_endpoint_is_no_simulation(url: str) -> None:
    with serving(b"203.0.113.7") as service:
        assert own_cidr({"AWS_ENDPOINT_URL": url}, url=service) == "203.0.113.7/32"


@pytest.mark.parametrize(("cidr", "everybody"), [("0.0.0.0/0", True), ("::/0", True), ("10.0.0.0/8", False)])
def test_a_network_of_all_addresses_is_everybody(cidr: str, everybody: bool) -> None:
    assert is_everybody(cidr) is everybody
