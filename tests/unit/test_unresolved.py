"""What providers of credentials said, as users may read it."""

from __future__ import annotations

import base64
import json

import pytest
from botocore import exceptions as sdk

from puter_worker.ec2.credentials.unresolved import last_words, providers_words, unresolved
from puter_worker.errors import CredentialsError, Handling

KEY_ID, SECRET = "ASIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
TOKEN = base64.b64encode(bytes(range(200))).decode()


@pytest.mark.parametrize("words", [providers_words, last_words])
@pytest.mark.parametrize(
    "text",
    [
        f"{KEY_ID} {SECRET}",
        f"key={SECRET};",
        f"'{TOKEN}'",
        f"\n{SECRET}\n",
        json.dumps({"AccessKeyId": KEY_ID, "SecretAccessKey": SECRET, "SessionToken": TOKEN}),
        f"{'x ' * 900}{SECRET}{' y' * 900}",
        "x" * 1_990 + SECRET,
        SECRET + "x" * 1_990,
    ],
)
def test_what_looks_like_a_key_is_not_shown(words: object, text: str) -> None:
    assert callable(words)
    told = words(text)

    assert not [secret for secret in (KEY_ID, SECRET, TOKEN) if secret[:20] in told or secret[-20:] in told]
    assert len(told) <= 160


@pytest.mark.parametrize(
    "text",
    ["run `okta-aws-cli --profile lab` first", "/home/betty/bin/get-credentials: line 7: jq: command not found"],
)
def test_what_does_not_is(text: str) -> None:
    assert providers_words(text) == last_words(text) == text


def test_of_a_long_text_a_program_says_the_end_and_aws_the_beginning() -> None:
    text = f"begins {'and goes on ' * 500}and ends"

    assert last_words(text).endswith("and ends")
    assert providers_words(text).startswith("begins")


SIGN_IN = "`aws sso login --profile lab`"


@pytest.mark.parametrize(
    ("error", "provider", "words"),
    [
        (sdk.UnauthorizedSSOTokenError(), "assume-role", SIGN_IN),
        (sdk.SSOTokenLoadError(error_msg="none"), "sso", SIGN_IN),
        (sdk.TokenRetrievalError(provider="sso", error_msg="expired"), "sso", SIGN_IN),
        (KeyError("0e01"), "sso", SIGN_IN),
        (sdk.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"), "env", "AWS_SECRET_ACCESS_KEY"),
        (sdk.MetadataRetrievalError(error_msg="no role"), "iam-role", "check the role of the worker's host"),
        (sdk.ClientError({"Error": {"Code": "AccessDenied", "Message": "not yours"}}, "AssumeRole"), "assume-role",
         "AssumeRole was refused, AccessDenied: not yours"),
        (FileNotFoundError(2, "No such file or directory", "/x/token"), "assume-role-with-web-identity", "'/x/token'"),
        (RuntimeError("Credentials were refreshed, but the refreshed credentials are still expired."), "iam-role",
         "had expired already"),
        (ZeroDivisionError(SECRET), "custom-process", "ZeroDivisionError in its provider custom-process"),
        (ValueError("invalid literal for int(): 'often'"), "", "'often'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)  # fmt: skip
def test_whatever_a_provider_raises_is_waited_for_with_a_remedy(error: Exception, provider: str, words: str) -> None:
    told = unresolved(error, profile="lab", provider=provider)

    assert isinstance(told, CredentialsError)
    assert (told.handling, told.doubtful) == (Handling.CREDENTIALS, False)
    assert words in told.message
    assert SECRET not in told.message


def test_an_error_of_ours_is_left_as_it_is() -> None:
    ours = CredentialsError("mine")

    assert unresolved(ours, profile=None, provider="assume-role") is ours
