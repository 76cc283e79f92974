"""A worker's settings are read from its environment; what cannot be used is refused with its name and its limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from puter_client.contract.errors import InvalidInput
from puter_worker.settings import WorkerSettings, read_settings

# Each number's variable, attribute, default, least and largest value.
NUMBERS = [
    ("PUTER_MAX_JOBS", "max_jobs", 64, 1, 10_000),
    ("PUTER_MAX_GROUP", "max_group", 100, 1, 100),
    ("PUTER_DRAIN_S", "drain_s", 25, 1, 3_600),
    ("PUTER_IDLE_EXIT_S", "idle_exit_s", 600, 1, 86_400),
    ("PUTER_QUARANTINE_S", "quarantine_s", 10, 0, 3_600),
    ("PUTER_QUIET_SWEEP_S", "quiet_sweep_s", 25, 1, 25),
]
NUMBER = pytest.mark.parametrize(("name", "attribute", "default", "least", "most"), NUMBERS)


def settings(**environ: str) -> WorkerSettings:
    return read_settings({"PUTER_REDIS_URL": "redis://127.0.0.1:1/0", "HOME": "/", **environ})


@NUMBER
def test_a_number_is_what_its_variable_says(name: str, attribute: str, default: int, least: int, most: int) -> None:
    assert getattr(settings(), attribute) == default
    assert getattr(settings(**{name: ""}), attribute) == default
    assert getattr(settings(**{name: str(least)}), attribute) == least
    assert getattr(settings(**{name: str(most)}), attribute) == most


@NUMBER
@pytest.mark.parametrize("text", ["-1", "1.5", "many", "\u0663", "99999999999"])
def test_another_text_is_refused_with_the_limits(
    name: str, attribute: str, default: int, least: int, most: int, text: str
) -> None:
    with pytest.raises(InvalidInput, match=rf"{name} .*: write a whole number from {least} to {most}"):
        settings(**{name: text})


def test_a_policy_is_the_file_that_is_named_and_none_for_the_local_engine(tmp_path: Path) -> None:
    environ = {"PUTER_REDIS_URL": "redis://127.0.0.1:1/0", "HOME": "/", "PUTER_POLICY": "/etc/policy.toml"}

    assert read_settings(environ).policy_file == Path("/etc/policy.toml")
    assert read_settings(environ, local_engine=tmp_path).policy_file is None
    assert settings(PUTER_POLICY="").policy_file is None
