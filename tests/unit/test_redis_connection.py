"""What a refusal by Redis is said to mean: the cause, a remedy, and no secret."""

from __future__ import annotations

import pytest
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from puter_client.store.redis_connection import why_refused

BETTY = "redis://betty:hunter2@r.example:6379/0"


def while_connecting(cause: Exception) -> RedisConnectionError:
    """As redis-py tells of a refusal while a connection is made."""
    error = RedisConnectionError("hunter2")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://r.example", "requires a user and a password: add them to PUTER_REDIS_URL"),
        ("redis://:hunter2@r.example", "refuses the password: PUTER_REDIS_URL names no user"),
        (BETTY, "refuses the user 'betty' or the password: check PUTER_REDIS_URL"),
    ],
)
def test_who_is_not_let_in_is_told_what_the_url_lacks(url: str, told: str) -> None:
    assert why_refused(url, AuthenticationError("hunter2")).endswith(told)


@pytest.mark.parametrize(
    "error", [AuthenticationError(), NoPermissionError(), ReadOnlyError(), RedisConnectionError()], ids=type
)
@pytest.mark.parametrize("url", ["redis://r.example", "redis://:hunter2@r.example", BETTY])
def test_the_setting_that_holds_the_url_is_the_one_named(url: str, error: Exception) -> None:
    told = why_refused(url, error, role="worker", named_by="redis_url in /c.toml")

    assert "redis_url in /c.toml" in told
    assert "PUTER_REDIS_URL" not in told


def test_a_client_without_a_right_is_told_how_to_name_its_namespace() -> None:
    assert "--namespace or PUTER_NAMESPACE" in why_refused(BETTY, NoPermissionError("hunter2"))


def test_a_worker_with_a_clients_url_is_told_which_it_needs() -> None:
    told = why_refused(BETTY, NoPermissionError("hunter2"), role="worker")
    assert "worker's rights (deploy/add-user worker" in told
    assert "--namespace" not in told


def test_a_refusal_while_a_connection_is_made_is_a_refusal() -> None:
    assert why_refused(BETTY, while_connecting(AuthenticationError())) == why_refused(BETTY, AuthenticationError())


@pytest.mark.parametrize(
    ("error", "told"),
    [(OutOfMemoryError("hunter2"), "out of memory"), (ReadOnlyError("hunter2"), "is a read-only replica")],
)
def test_a_redis_that_cannot_be_written_to_is_told_of_with_a_remedy(error: RedisError, told: str) -> None:
    assert told in why_refused(BETTY, error)


@pytest.mark.parametrize("error", [RedisConnectionError("hunter2"), OSError("hunter2")])
def test_only_a_redis_that_does_not_answer_is_said_not_to(error: Exception) -> None:
    assert "does not answer" in why_refused(BETTY, error)


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationError("hunter2"),
        NoPermissionError("hunter2"),
        OutOfMemoryError("hunter2"),
        ReadOnlyError("hunter2"),
        ResponseError("hunter2"),
        RedisConnectionError("hunter2"),
        OSError("hunter2"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_password_is_in_it(error: Exception) -> None:
    assert "hunter2" not in why_refused(BETTY, error)
