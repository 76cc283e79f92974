"""The benchmarks run: with so little work that only their way is seen, not their pace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, check=False, cwd=ROOT, env=os.environ, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["launch-200", "spot-200", "live-1000", "fair", "hostile", "one-up"])
def test_a_benchmark_runs_to_its_end_and_prints_its_lines(name: str) -> None:
    ran = run("--quiet", "--tiny", name)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("| work | measured | baseline in the same run | ratio | target | met? |")
    assert ran.stdout.count("\n| ") >= 2


def test_an_unknown_benchmark_is_refused_with_the_known_ones() -> None:
    ran = run("launch-9")

    assert ran.returncode == 2
    assert "no benchmark 'launch-9': known are startup, launch-200" in ran.stderr
