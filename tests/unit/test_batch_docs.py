"""What the pages and examples show can be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from puter_client.batch import read_batch
from puter_client.batch.levels import KNOWN

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "batch-files.md").read_text()
BLOCKS = re.findall(r"^```(yaml|jsonl|csv)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("form", ["yaml", "jsonl", "csv"])
def test_the_page_shows_each_format(form: str) -> None:
    assert form in {name for name, _ in BLOCKS}


@pytest.mark.parametrize(("form", "text"), BLOCKS)
def test_each_block_of_the_page_can_be_submitted(form: str, text: str) -> None:
    assert read_batch(f"page.{form}", text.encode()).entries


def test_the_page_has_a_row_for_each_field() -> None:
    table = PAGE.partition("## Fields")[2].partition("## ")[0]

    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(KNOWN)


def test_the_matrix_of_the_page_makes_the_puters_that_it_says() -> None:
    text = next(text for _, text in BLOCKS if "matrix" in text)

    tags = [entry.tag for entry in read_batch("page.yaml", text.encode()).entries]

    assert (len(tags), tags[0], tags[-1]) == (6, "train-0.1-1", "train-1e-3-2")


@pytest.mark.parametrize("name", ["batch.yaml", "sweep.csv", "jobs.jsonl"])
def test_each_example_can_be_submitted(name: str) -> None:
    assert read_batch(name, (ROOT / "examples" / name).read_bytes()).entries
