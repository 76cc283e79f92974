"""Workers killed and frozen, Redis killed, answers lost: in the end each request has its one machine.

Workloads end, are interrupted, lost and run again, and owners order ends: each end is known once, and true.

The short form is part of every run of the tests. PUTER_CHAOS=long is the long one; PUTER_CHAOS_SEEDS="1 2 3" repeats
the dice of earlier runs, which state their seeds.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.chaos.plan import any_seed, chosen_plan, chosen_seeds
from tests.chaos.trial import Trial


@pytest.mark.parametrize("seed", chosen_seeds())
async def test_whatever_breaks_each_key_has_exactly_one_machine(
    seed: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = any_seed() if seed is None else seed
    folder = Path(tempfile.mkdtemp(prefix="puter-chaos-"))
    trial = Trial(seed, chosen_plan(), folder)

    wrong = await trial.run()

    with capsys.disabled():
        print(f"\nchaos, seed {seed}: {'; '.join(trial.told)}")
    if wrong:
        pytest.fail(f"seed {seed}, logs in {folder}\n{wrong}", pytrace=False)
    shutil.rmtree(folder)
