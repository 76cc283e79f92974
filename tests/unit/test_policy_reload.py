"""The policy in force: it follows its file, and stays what it was while the file cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from puter_client.contract.errors import InvalidInput
from puter_client.policy.rule import Refusal
from puter_worker.errors import PolicyUnusable
from puter_worker.policy import MOST_COUNTED, OTHERS, Rules, Sums
from puter_worker.stages.reload_policy import ReloadPolicy
from puter_worker.timings import Timings

TEXT = (
    '[namespaces."*"]\nprofiles = ["lab"]\n[namespaces.art]\nprofiles = ["lab", "art"]\n[namespaces.bot]\nspot = true\n'
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "policy.toml").write_text(TEXT)
    return tmp_path / "policy.toml"


def replace(path: Path, text: str | None) -> None:
    """As an editor does it: a new file in the place of the old one; None: none."""
    if text is None:
        path.unlink()
        return
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def profiles(rules: Rules) -> tuple[str, ...]:
    allowed = rules.of("betty")
    assert allowed is not None
    return allowed.profiles


async def test_a_file_that_has_changed_is_read_anew(path: Path) -> None:
    rules = Rules(path)
    stage = ReloadPolicy(rules, Timings())
    await stage.run_once()
    replace(path, TEXT.replace("lab", "new"))

    assert await stage.run_once() == Timings().policy_s
    assert profiles(rules) == ("new",)


@pytest.mark.parametrize("bad", ["[", "spot = true", None])
async def test_a_file_that_cannot_be_used_is_an_error_as_long_as_it_stays_so_and_changes_nothing(
    path: Path, bad: str | None
) -> None:
    rules = Rules(path)
    stage = ReloadPolicy(rules, Timings())
    replace(path, bad)

    for _ in range(2):
        with pytest.raises(PolicyUnusable) as told:
            await stage.run_once()
        assert "policy.unusable in the worker's log" in told.value.message
        assert str(path) not in told.value.message, "every namespace may read it"
        assert profiles(rules) == ("lab",)
    replace(path, TEXT.replace("lab", "new"))
    await stage.run_once()
    assert profiles(rules) == ("new",)


def test_a_worker_does_not_start_with_a_file_that_cannot_be_used(path: Path) -> None:
    path.write_text("[namespaces.art]\nspots = true\n")

    with pytest.raises(InvalidInput, match=r"PUTER_POLICY .*policy.toml: line 2: .*did you mean spot\?"):
        Rules(path)


@pytest.mark.parametrize(("shared", "is_missing"), [(True, True), (False, False)])
def test_without_a_file_all_is_allowed(shared: bool, is_missing: bool) -> None:
    rules = Rules(shared=shared)

    assert rules.of("betty") is None
    assert (rules.is_missing, rules.refuses_programs) == (is_missing, is_missing)
    assert rules.public_profiles(["art", "lab"]) == ("art", "lab")
    assert rules.own_profiles(["art", "lab"]) == {}


def test_everybody_reads_the_names_of_the_profiles_of_all_and_each_namespace_its_own(path: Path) -> None:
    rules = Rules(path, shared=True)

    assert rules.public_profiles(["art", "lab", "secret"]) == ("lab",)
    assert rules.own_profiles(["art", "lab", "secret"]) == {"art": ("art",)}
    assert not rules.refuses_programs


def test_refusals_are_counted_by_namespace_and_reason_within_bounds_until_they_are_told() -> None:
    rules = Rules()
    for number in range(MOST_COUNTED + 5):
        rules.count(f"n{number}", "spot", 2)
    rules.count("n0", "spot")

    counted = rules.take_counted()
    assert counted["n0"] == Sums({"spot": 3})
    assert counted[OTHERS] == Sums({"spot": 10})
    assert len(counted) == MOST_COUNTED + 1
    assert rules.take_counted() == {}


def test_of_what_the_policy_refuses_the_first_whole_sentence_is_kept_for_each_rule() -> None:
    rules = Rules()
    for value in ("p5.48xlarge", "p4d.24xlarge"):
        rules.refused(Refusal("instance_types", value, "t3.*", "betty"), 2)
    rules.count("betty", "user ann was removed")

    assert rules.take_counted() == {
        "betty": Sums(
            {"policy: instance_types": 4, "user ann was removed": 1},
            {
                "policy: instance_types": "not allowed by the workers' policy for namespace betty: "
                "p5.48xlarge (rule instance_types; allowed: t3.*)"
            },
        )
    }
    assert rules.take_counted() == {}
