"""Each run states its seed: beside a failure, and with `make hostile`."""

from __future__ import annotations

import pytest

from tests.hostile.sizes import IS_LONG, SEED


@pytest.fixture(autouse=True)
def stated_seed() -> None:
    print(f"\nhostile: PUTER_HOSTILE_SEED={SEED}{', the whole' if IS_LONG else ', a part'}")
