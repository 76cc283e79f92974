"""Why a puter waits after an error, and which errors end it."""

from __future__ import annotations

import pytest

from puter_worker.errors import (
    CredentialsError,
    Ec2Error,
    Handling,
    KeyNotKept,
    LaunchNotComposed,
    NotReached,
    PrepareTimedOut,
    ProfileMissing,
    StageError,
    Unanswered,
    is_final,
    reason_after,
)


@pytest.mark.parametrize("handling", Handling)
def test_only_what_repeating_cannot_help_is_final(handling: Handling) -> None:
    assert is_final(Ec2Error("Code", "why", handling=handling)) == (handling is Handling.FAIL)


def test_a_missing_profile_is_final() -> None:
    assert is_final(ProfileMissing("no such profile"))


@pytest.mark.parametrize("handling", Handling)
@pytest.mark.parametrize("doubtful", [True, False])
def test_every_reason_is_one_line_that_names_the_code(handling: Handling, *, doubtful: bool) -> None:
    reason = reason_after(Ec2Error("SomeCode", "why\nso", handling=handling, doubtful=doubtful))

    assert "SomeCode" in reason
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("handling", "begins"),
    [
        (Handling.CREDENTIALS, "waiting for AWS credentials"),
        (Handling.QUOTA, "waiting for the account's quota"),
        (Handling.OTHER_ZONE, "no capacity"),
        (Handling.THROTTLED, "EC2's API rate limit is reached"),
    ],
)
def test_a_reason_says_what_is_waited_for(handling: Handling, begins: str) -> None:
    assert reason_after(Ec2Error("Code", "why", handling=handling)).startswith(begins)


def test_of_credentials_the_reason_says_how_to_sign_in() -> None:
    error = CredentialsError("none: sign in (such as `aws sso login`)")

    assert "aws sso login" in reason_after(error)


@pytest.mark.parametrize("kind", [NotReached, PrepareTimedOut, KeyNotKept, LaunchNotComposed])
def test_what_ec2_did_not_say_is_told_in_its_own_words(kind: type[StageError]) -> None:
    assert reason_after(kind("no network")) == "no network; trying again"


def test_after_a_call_whose_end_is_unknown_ec2_is_asked_what_is_there() -> None:
    assert reason_after(Unanswered("EC2 did not answer in time")) == (
        "EC2's answer is unknown (EC2 did not answer in time); checking whether the machine exists"
    )
