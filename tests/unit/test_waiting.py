"""Why a puter waits after an error, and which errors end it."""

from __future__ import annotations

import pytest

from puter_worker.ec2.errors import Ec2Error, Handling, ProfileMissing
from puter_worker.stages.waiting import is_final, reason_after


@pytest.mark.parametrize("handling", Handling)
def test_only_what_repeating_cannot_help_is_final(handling: Handling) -> None:
    assert is_final(Ec2Error("Code", "why", handling=handling)) == (handling is Handling.FAIL)


def test_a_missing_profile_is_final() -> None:
    assert is_final(ProfileMissing("ProfileNotFound", "no such profile", handling=Handling.CREDENTIALS))


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
        (Handling.THROTTLED, "EC2 refuses calls as too many"),
    ],
)
def test_a_reason_says_what_is_waited_for(handling: Handling, begins: str) -> None:
    assert reason_after(Ec2Error("Code", "why", handling=handling)).startswith(begins)


def test_of_credentials_the_reason_says_how_to_sign_in() -> None:
    error = Ec2Error("NoCredentials", "none: sign in (such as `aws sso login`)", handling=Handling.CREDENTIALS)

    assert "aws sso login" in reason_after(error)
