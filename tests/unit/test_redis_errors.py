"""What an error of Redis is said to mean: the cause, a remedy, and no secret."""

from __future__ import annotations

import socket
import ssl

import pytest
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ExecAbortError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from puter_client.store.redis_errors import Role, may_pass, why_refused
from puter_client.store.sentinel import NoPrimary, Why

BETTY = "redis://betty:hunter2@r.example:6379/0"
TLS = "rediss://betty:hunter2@r.example:6379/0"
SOCKET = "unix://betty:hunter2@/run/redis.sock"
SENTINELS = "redis+sentinel://betty:hunter2@s1,s2/m?sentinel_password=hunter2"
CLUSTER = "is in cluster mode, which Puter cannot use: name a Redis with cluster-enabled no"


def while_connecting(cause: Exception) -> RedisConnectionError:
    """As redis-py tells of a refusal while a connection is made."""
    error = RedisConnectionError("hunter2")
    error.__cause__ = cause
    return error


def while_handling(cause: Exception) -> RedisConnectionError:
    """As redis-py tells of an error of the system."""
    error = RedisConnectionError("Error 1 connecting to hunter2")
    error.__context__ = cause
    return error


def certificate(verify_code: int) -> ssl.SSLCertVerificationError:
    """A certificate that OpenSSL refuses."""
    error = ssl.SSLCertVerificationError(1, "hunter2")
    error.verify_code = verify_code
    return error


def tls(reason: str) -> ssl.SSLError:
    """An error of OpenSSL's."""
    error = ssl.SSLError(1, "hunter2")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://r.example", "requires a user and a password: add them to PUTER_REDIS_URL"),
        ("redis://:hunter2@r.example", "refuses the password: PUTER_REDIS_URL names no user"),
        ("redis://hunter2@r.example", "requires a password: PUTER_REDIS_URL names a user without one"),
        (BETTY, "refuses the user or the password: check both in PUTER_REDIS_URL; in a user or password, write /"),
    ],
)
def test_who_is_not_let_in_is_told_what_the_url_lacks(url: str, told: str) -> None:
    assert why_refused(url, AuthenticationError("hunter2")).startswith(f"Redis at redis://r.example:6379/0 {told}")


@pytest.mark.parametrize("role", ["client", "worker", "admin"])
def test_a_password_that_puter_made_is_not_said_to_need_an_encoding(role: Role) -> None:
    told = why_refused(BETTY.replace("hunter2", "0a" * 32), AuthenticationError(), role)

    assert "if they are new, Redis has not read its file of users" in told
    assert "%2F" not in told


@pytest.mark.parametrize(
    ("role", "told"), [("client", "namespace"), ("worker", "user add --worker"), ("admin", "user add --admin")]
)
def test_what_is_not_permitted_is_told_with_the_user_that_it_takes(role: Role, told: str) -> None:
    assert told in why_refused(BETTY, NoPermissionError(), role)


def test_a_client_without_a_right_is_told_how_to_name_its_namespace() -> None:
    assert "--namespace or PUTER_NAMESPACE" in why_refused(BETTY, NoPermissionError("hunter2"))


def test_a_worker_with_a_clients_url_is_told_which_it_needs() -> None:
    told = why_refused(BETTY, NoPermissionError("hunter2"), role="worker")
    assert "worker's rights (puter admin user add --worker" in told
    assert "--namespace" not in told


def test_a_refusal_while_a_connection_is_made_is_a_refusal() -> None:
    assert why_refused(BETTY, while_connecting(AuthenticationError())) == why_refused(BETTY, AuthenticationError())


def not_found(why: Why, cause: Exception | None = None) -> RedisConnectionError:
    """As a connection tells that Sentinels do not say where the primary is."""
    error = NoPrimary(why)
    error.__cause__ = cause
    return while_connecting(error)


# What redis-py raises, and the words for it.
MEANT: list[tuple[str, Exception, str]] = [
    (BETTY, OutOfMemoryError("hunter2"), "is out of memory: raise its maxmemory"),
    (BETTY, ReadOnlyError("hunter2"), "is a read-only replica: name its primary"),
    (BETTY, BusyLoadingError("hunter2"), "is still reading its data from disk: wait"),
    (BETTY, InvalidResponse("hunter2"), "does not answer as Redis does: check host and port"),
    (BETTY, ResponseError("hunter2"), "refused a command (ResponseError): Puter needs Redis 7.0 or newer"),
    (BETTY, ResponseError("CLUSTERDOWN Hash slot not served"), CLUSTER),
    (BETTY, ResponseError("MOVED 7 hunter2:6379"), CLUSTER),
    (BETTY, ResponseError("CROSSSLOT Keys in request don't hash to the same slot"), CLUSTER),
    (BETTY, ResponseError("SELECT is not allowed in cluster mode"), CLUSTER),
    (BETTY, ResponseError("Command # 1 (GET hunter2) of pipeline caused error: ('MOVED 7 hunter2:6379',)"), CLUSTER),
    (BETTY, ResponseError("DB index is out of range"), "has no database of that number: name another"),
    (BETTY, ResponseError("MISCONF hunter2"), "cannot write its data to disk and refuses writes: see its log"),
    (BETTY, RedisConnectionError("max number of clients reached"), "has as many clients as it takes: raise"),
    (BETTY, AuthenticationError("AUTH <password> called without any password configured"), "has no password: remove"),
    (TLS, while_handling(certificate(19)), "has a certificate that this computer does not trust: add ?ssl_ca_certs="),
    (TLS, while_handling(certificate(10)), "has a certificate that is not valid now: renew it"),
    (TLS, while_handling(certificate(62)), "has a certificate for another host: write the host that it names"),
    (TLS, while_handling(tls("WRONG_VERSION_NUMBER")), "does not complete the TLS handshake (WRONG_VERSION_NUMBER): "),
    (TLS, tls("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "requires a certificate of its clients: add ?ssl_certfile="),
    (BETTY, RedisConnectionError("Connection closed by server."), "closed the connection without an answer: see its"),
    (BETTY, while_handling(ConnectionResetError("hunter2")), "closed the connection without an answer: see its log"),
    (BETTY, while_handling(ConnectionRefusedError("hunter2")), "does not answer: nothing accepts connections there"),
    (BETTY, while_handling(socket.gaierror("hunter2")), "does not answer: its host's name cannot be resolved"),
    (SOCKET, while_handling(FileNotFoundError("hunter2")), "does not answer: there is no such socket"),
    (SOCKET, while_handling(FileNotFoundError("hunter2")), "does not answer: there is no such socket; check that it r"),
    (SOCKET, while_handling(PermissionError("hunter2")), "does not answer: your user may not open its socket"),
    (BETTY, RedisTimeoutError("hunter2"), "does not answer in time: check that it runs and is not suspended"),
    (BETTY, TimeoutError("hunter2"), "does not answer in time: check that it runs and is not suspended"),
    (BETTY, RedisConnectionError("hunter2"), "does not answer (ConnectionError): check that it runs"),
    (BETTY, OSError("hunter2"), "does not answer (OSError): check that it runs"),
    (BETTY, RedisError("hunter2"), "does not answer (RedisError): check that it runs"),
    (SENTINELS, not_found(Why.UNKNOWN), "is not known to its Sentinels: check the name of the service"),
    (SENTINELS, not_found(Why.DOWN), "is down, as its Sentinels say: wait until they have chosen another primary"),
    (SENTINELS, not_found(Why.REPLICA), "is failing over: the server that its Sentinels name is still a replica"),
    (SENTINELS, not_found(Why.SILENT), "cannot be found, since none of its Sentinels answers: check that they run"),
    (SENTINELS, not_found(Why.SILENT, OSError("hunter2")), "cannot be found, since none of its Sentinels answers"),
    (SENTINELS, not_found(Why.SILENT, AuthenticationError("hunter2")), "has Sentinels that refuse their user or passw"),
    (SENTINELS, not_found(Why.SILENT, ResponseError("hunter2")), "has Sentinels that refuse to name it: check that"),
    (SENTINELS, AuthenticationError("hunter2"), "refuses the user or the password: check both in PUTER_REDIS_URL"),
    (SENTINELS, ReadOnlyError("hunter2"), "is a read-only replica: wait until its Sentinels have chosen another"),
    (SENTINELS, RedisTimeoutError("hunter2"), "does not answer in time: check that it runs and is not suspended"),
]


@pytest.mark.parametrize(("url", "error", "told"), MEANT)
def test_what_is_wrong_is_named_with_a_remedy(url: str, error: Exception, told: str) -> None:
    at = {
        BETTY: "redis://r.example:6379/0",
        TLS: "rediss://r.example:6379/0",
        SOCKET: "unix:///run/redis.sock",
        SENTINELS: "redis+sentinel://s1:26379,s2:26379/m/0",
    }[url]

    assert why_refused(url, error).startswith(f"Redis at {at} {told}")


@pytest.mark.parametrize("error", [error for _, error, _ in MEANT] + [ExecAbortError("hunter2")])
def test_no_secret_is_in_it(error: Exception) -> None:
    for url in (BETTY, TLS, SOCKET, SENTINELS):
        told = why_refused(url, error)
        assert "{" not in told
        assert "hunter2" not in told
        assert "betty" not in told
        assert "\n" not in told


@pytest.mark.parametrize(
    ("url", "error", "perhaps"),
    [
        (BETTY, RedisConnectionError("Connection closed by server."), "; for a TLS port, write rediss://"),
        (TLS, RedisConnectionError("Connection closed by server."), "ssl_keyfile=FILE to PUTER_REDIS_URL"),
        (TLS, RedisTimeoutError(), "; for a plain port, write redis://"),
        (BETTY, RedisTimeoutError(), "is not suspended or overloaded, and that no firewall is in between"),
        (SOCKET, RedisTimeoutError(), "is not suspended or overloaded"),
    ],
)
def test_who_gets_no_answer_is_told_what_the_port_may_be(url: str, error: Exception, perhaps: str) -> None:
    assert why_refused(url, error).endswith(perhaps)


@pytest.mark.parametrize(
    "error",
    [
        while_handling(ConnectionRefusedError()),
        while_handling(FileNotFoundError()),
        RedisTimeoutError(),
        TimeoutError(),
        RedisConnectionError("Connection closed by server."),
        BusyLoadingError(),
        ReadOnlyError(),
        ResponseError("NOREPLICAS Not enough good replicas to write."),
        ResponseError("Command # 1 (RPUSH x) of pipeline caused error: ('NOREPLICAS Not enough good replicas',)"),
        ResponseError("MASTERDOWN Link with MASTER is down"),
        not_found(Why.DOWN),
        not_found(Why.REPLICA),
    ],
)
def test_what_passes_by_itself_is_waited_for(error: Exception) -> None:
    assert may_pass(error)


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationError(),
        while_connecting(AuthenticationError()),
        NoPermissionError(),
        OutOfMemoryError(),
        ResponseError("WRONGTYPE hunter2"),
        ResponseError("MISCONF hunter2"),
        ResponseError("CLUSTERDOWN Hash slot not served"),
    ],
)
def test_a_refusal_is_told_at_once(error: Exception) -> None:
    assert not may_pass(error)


def test_an_error_that_caused_itself_is_told_of() -> None:
    error = RedisConnectionError("a")
    error.__cause__ = other = RedisConnectionError("b")
    other.__cause__ = error

    assert "does not answer (ConnectionError)" in why_refused(BETTY, error)


@pytest.mark.parametrize(
    "error", [AuthenticationError(), NoPermissionError(), ReadOnlyError(), RedisConnectionError()], ids=type
)
@pytest.mark.parametrize("url", ["redis://r.example", "redis://:hunter2@r.example", "redis://betty:hunter2@r.example"])
def test_the_setting_that_holds_the_url_is_the_one_named(url: str, error: Exception) -> None:
    told = why_refused(url, error, role="worker", named_by="redis_url in /c.toml")

    assert "redis_url in /c.toml" in told
    assert "PUTER_REDIS_URL" not in told
