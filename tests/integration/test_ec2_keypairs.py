"""Which key pair a machine is launched with."""

from __future__ import annotations

import base64
import hashlib

import pytest
from structlog.testing import capture_logs

from puter_worker.ec2.answers import KeyPairAnswer, KeyPairs
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.keypairs import Held, choose_key_pair, create_key_pair, default_names, ensure_key_pair
from puter_worker.ec2.own_resources import OwnResources
from puter_worker.errors import AnothersName, Ec2Error, Handling, KeyPairMismatch, NoPublicKey
from tests.integration.scripted_endpoint import Endpoint, answer, refusal

MINES = OwnResources()
BETTYS, MALLORYS = OwnResources("betty"), OwnResources("mallory")


def key(seed: int, comment: str = "me@here") -> str:
    """An OpenSSH line of an ed25519 key that differs by its seed."""
    point = bytes([seed]) * 32
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in (b"ssh-ed25519", point))
    return f"ssh-ed25519 {base64.b64encode(blob).decode()} {comment}"


MINE, OTHERS = key(9), key(8)
MY_DIGEST = hashlib.sha256(base64.b64decode(MINE.split()[1])).hexdigest()[:8]


async def imported(caller: Caller, name: str, public_key: str) -> str:
    pair = await caller.call("ImportKeyPair", KeyPairAnswer, KeyName=name, PublicKeyMaterial=public_key.encode())
    return pair.key_pair_id


async def names(caller: Caller) -> set[str]:
    return {pair.key_name for pair in (await caller.call("DescribeKeyPairs", KeyPairs)).key_pairs}


async def test_a_key_is_imported_under_the_default_name(caller: Caller) -> None:
    pair = await ensure_key_pair(caller, key_name=None, public_key=MINE, own=MINES)

    assert (pair.name, pair.notice) == ("puter-v1", None)
    assert await names(caller) == {"puter-v1"}


async def test_an_imported_pair_bears_the_mark_of_puter(caller: Caller, moto: str) -> None:
    await ensure_key_pair(caller, key_name=None, public_key=MINE, own=MINES)

    filters = [{"Name": "tag:puter:managed", "Values": ["true"]}]
    assert len((await caller.call("DescribeKeyPairs", KeyPairs, Filters=filters)).key_pairs) == 1


async def test_the_same_key_is_used_again_whatever_its_comment(caller: Caller) -> None:
    first = await ensure_key_pair(caller, key_name=None, public_key=key(9, "a@b"), own=MINES)

    again = await ensure_key_pair(caller, key_name=None, public_key=key(9, "c d"), own=MINES)

    assert again == first


async def test_another_key_under_the_default_name_gives_mine_its_own(caller: Caller) -> None:
    await imported(caller, "puter-v1", OTHERS)

    pair = await ensure_key_pair(caller, key_name=None, public_key=MINE, own=MINES)

    assert pair.name == f"puter-v1-{MY_DIGEST}"
    assert pair.notice is not None
    assert "'puter-v1'" in pair.notice


async def test_the_name_of_its_own_is_used_again(caller: Caller) -> None:
    await imported(caller, "puter-v1", OTHERS)
    first = await ensure_key_pair(caller, key_name=None, public_key=MINE, own=MINES)

    again = await ensure_key_pair(caller, key_name=None, public_key=MINE, own=MINES)

    assert again == first


async def test_another_key_under_a_chosen_name_is_an_error(caller: Caller) -> None:
    await imported(caller, "team", OTHERS)

    with pytest.raises(KeyPairMismatch) as caught:
        await ensure_key_pair(caller, key_name="team", public_key=MINE, own=MINES)

    assert (caught.value.code, caught.value.handling) == ("KeyPairMismatch", Handling.FAIL)


async def test_a_chosen_name_that_only_ec2_knows_is_used_with_a_warning(caller: Caller) -> None:
    held = await imported(caller, "team", OTHERS)

    pair = await ensure_key_pair(caller, key_name="team", public_key=None, own=MINES)

    assert (pair.name, pair.key_pair_id) == ("team", held)
    assert pair.notice is not None
    assert "only its owner can sign in" in pair.notice


async def test_a_chosen_name_that_nobody_has_a_key_for_is_an_error(caller: Caller) -> None:
    with pytest.raises(NoPublicKey, match="give one with --public-key"):
        await ensure_key_pair(caller, key_name="team", public_key=None, own=MINES)


async def test_the_default_name_is_never_used_without_a_key_to_compare(caller: Caller) -> None:
    await imported(caller, "puter-v1", OTHERS)

    with pytest.raises(NoPublicKey) as caught:
        await ensure_key_pair(caller, key_name=None, public_key=None, own=MINES)

    assert caught.value.code == "NoPublicKey"


def test_a_key_that_ec2_does_not_tell_is_not_taken_for_ones_own() -> None:
    held = Held(key_pair_id="key-1", public_key=None)

    assert choose_key_pair("puter-v1", MINE, held, own=MINES, explicit=False, last=False).act == "next"


def test_keys_that_cannot_be_read_do_not_agree() -> None:
    held = Held(key_pair_id="key-1", public_key="ssh-ed25519 A")

    with pytest.raises(KeyPairMismatch, match="holds another key"):
        choose_key_pair("team", "ssh-ed25519 B", held, own=MINES, explicit=True, last=True)


def test_a_name_of_ones_own_is_told_by_the_key_alone() -> None:
    assert default_names(MINES, key(9, "a")) == default_names(MINES, key(9, "b"))
    assert default_names(MINES, MINE)[:2] == ["puter-v1", f"puter-v1-{MY_DIGEST}"]
    assert default_names(BETTYS, MINE)[:2] == ["puter-v1-betty", f"puter-v1-betty.{MY_DIGEST}"]


@pytest.mark.parametrize("namespace", ["a", "z" * 39, MY_DIGEST, f"betty-{MY_DIGEST}"])
def test_no_default_name_is_one_of_another_namespace(namespace: str) -> None:
    others = default_names(OwnResources(namespace), MINE)

    assert not {*default_names(BETTYS, MINE), *BETTYS.group_names} & {*others, *OwnResources(namespace).group_names}
    assert max(map(len, others)) <= 255, "EC2's limit"


@pytest.mark.parametrize("taken", [1, 2, 3])
async def test_names_that_are_taken_are_gone_round(caller: Caller, taken: int) -> None:
    for name in default_names(BETTYS, MINE)[:taken]:
        await imported(caller, name, OTHERS)

    pair = await ensure_key_pair(caller, key_name=None, public_key=MINE, own=BETTYS)

    assert pair.name == default_names(BETTYS, MINE)[taken]


@pytest.mark.parametrize(
    "name", ["puter-v1-betty", f"puter-v1-betty.{MY_DIGEST}", "PUTER-v1-betty", "puter-v1", "puter-v1x"]
)
async def test_no_namespace_imports_a_key_under_a_name_that_puter_gives(caller: Caller, name: str) -> None:
    with pytest.raises(AnothersName, match="names that begin with puter-v1 are Puter's own: choose another --key-name"):
        await ensure_key_pair(caller, key_name=name, public_key=OTHERS, own=MALLORYS)

    assert await names(caller) == set()


@pytest.mark.parametrize("own", [MINES, BETTYS])
async def test_a_key_that_another_namespace_imported_lets_it_in_nowhere(caller: Caller, own: OwnResources) -> None:
    """The name may be one that betty has in another region."""
    await ensure_key_pair(caller, key_name="prod", public_key=OTHERS, own=MALLORYS)

    with pytest.raises(
        AnothersName, match="the key pair 'prod' was made for namespace 'mallory': choose another --key"
    ):
        await ensure_key_pair(caller, key_name="prod", public_key=None, own=own)
    with pytest.raises(KeyPairMismatch):
        await ensure_key_pair(caller, key_name="prod", public_key=MINE, own=own)
    assert (await ensure_key_pair(caller, key_name="prod", public_key=OTHERS, own=own)).name == "prod"


def test_a_key_of_another_namespace_that_ec2_does_not_show_is_refused() -> None:
    held = Held(key_pair_id="key-1", public_key=None, tags=MALLORYS.tags)

    with pytest.raises(AnothersName):
        choose_key_pair("prod", MINE, held, own=BETTYS, explicit=True, last=True)


async def test_a_pair_made_by_ec2_comes_with_its_private_half_in_no_log(caller: Caller) -> None:
    with capture_logs() as logs:
        pair, private_key = await create_key_pair(caller, "made")

    assert pair.name == "made"
    assert private_key.startswith("-----BEGIN")
    assert private_key.splitlines()[1] not in str(logs)


async def test_a_pair_is_not_made_over_one_that_is_there(caller: Caller) -> None:
    await imported(caller, "made", OTHERS)

    with pytest.raises(Ec2Error) as caught:
        await create_key_pair(caller, "made")

    assert caught.value.handling is Handling.ALREADY_THERE


async def test_a_pair_that_somebody_imported_meanwhile_is_compared(told: Endpoint, told_caller: Caller) -> None:
    held = f"<item><keyPairId>key-1</keyPairId><keyName>puter-v1</keyName><publicKey>{MINE}</publicKey></item>"
    told.replies = [
        refusal("InvalidKeyPair.NotFound"),
        refusal("InvalidKeyPair.Duplicate"),
        answer("DescribeKeyPairs", f"<keySet>{held}</keySet>"),
    ]

    pair = await ensure_key_pair(told_caller, key_name=None, public_key=MINE, own=MINES)

    assert (pair.name, pair.key_pair_id, told.replies) == ("puter-v1", "key-1", [])
