"""Inboxes: what they are called, and which one a client has."""

from __future__ import annotations

import pytest

from puter_client.client import PuterClient
from puter_client.contract.errors import InvalidInput
from puter_client.contract.inbox import Inbox
from puter_client.store import names

LONGEST = "x" * 64


@pytest.mark.parametrize(
    ("inbox", "name"),
    [
        (Inbox("team-a"), "puter:_in:team-a"),
        (Inbox("team-a", "betty"), "puter:_in:team-a:betty"),
        (Inbox("team-a", "B.et_t-y2"), "puter:_in:team-a:B.et_t-y2"),
        (Inbox("a", LONGEST), f"puter:_in:a:{LONGEST}"),
    ],
)
def test_an_inbox_is_named_by_namespace_and_user(inbox: Inbox, name: str) -> None:
    assert names.inbox(str(inbox)) == name
    assert Inbox.parse(str(inbox)) == inbox


@pytest.mark.parametrize(
    "text", ["", ":", "a:", ":a", "A", "a:b:c", "a:-b", "a:b/c", "a:b c", "a:b\n", f"a:{LONGEST}x"]
)
def test_what_names_no_inbox_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="use 1 to"):
        Inbox.parse(text)


@pytest.mark.parametrize(
    ("url", "user"),
    [
        ("redis://betty:secret@r.example", "betty"),
        ("unix://betty:secret@/run/redis.sock", "betty"),
        ("redis://default:secret@r.example", "anna"),
        ("redis://:secret@r.example", "anna"),
        ("redis://secret@r.example", "anna"),
        ("redis://r.example", "anna"),
    ],
)
async def test_a_client_is_the_user_of_its_url(url: str, user: str) -> None:
    async with PuterClient.connect(url, namespace="team-a", user="anna") as client:
        assert client.user == user


@pytest.mark.parametrize("user", ["be%20ty", "b%2Fy", "a%3Ab", "%C3%BC", LONGEST + "x"])
def test_a_user_whom_no_inbox_can_be_named_after_is_refused_without_its_name(user: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        PuterClient.connect(f"redis://{user}:secret@r.example", namespace="team-a", url_from="MY_URL")

    assert str(refused.value).startswith("MY_URL names a Redis user whose name Puter cannot use: use 1 to 64 letters")
    assert user not in str(refused.value)
