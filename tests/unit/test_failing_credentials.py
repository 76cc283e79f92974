"""Credentials that fail are told from their first failure on, until they work, or nobody asks for them any more."""

from __future__ import annotations

from puter_client.contract.health import CredentialsHealth
from puter_worker.ec2.credentials.failing import FORGET_S, FailingCredentials


def test_they_fail_since_the_first_failure_and_for_the_latest_reason() -> None:
    failing = FailingCredentials()
    failing.failed("lab", "expired", 100.0)
    failing.failed("lab", "still expired", 105.0)

    assert failing.now(106.0) == (CredentialsHealth(profile="lab", since=100.0, error="still expired"),)


def test_profiles_do_not_hide_each_other() -> None:
    failing = FailingCredentials()
    failing.failed("lab", "expired", 100.0)
    failing.failed(None, "none", 101.0)

    assert [one.profile for one in failing.now(102.0)] == ["", "lab"]


def test_those_that_work_again_do_not_fail() -> None:
    failing = FailingCredentials()
    failing.failed(None, "expired", 100.0)
    failing.succeeded(None)
    failing.succeeded("lab")
    assert failing.now(101.0) == ()

    failing.failed(None, "expired", 200.0)
    assert failing.now(201.0)[0].since == 200.0


def test_those_that_nobody_asks_for_any_more_do_not_fail() -> None:
    failing = FailingCredentials()
    failing.failed("lab", "expired", 100.0)
    assert failing.now(100.0 + FORGET_S)
    assert failing.now(101.0 + FORGET_S) == ()

    failing.failed("lab", "expired", 300.0)
    assert failing.now(300.0)[0].since == 300.0
