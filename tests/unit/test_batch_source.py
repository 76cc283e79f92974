"""Where a batch comes from, and how its format is told."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from puter_client.batch import Format, read_batch, read_source
from puter_client.batch.read import recognised
from puter_client.contract.errors import InvalidInput

TEXTS = {"yaml": b"puters: [a]", "jsonl": b'{"tag": "a"}', "csv": b"tag,run\na,x\n"}


def refused(source: str, text: bytes, form: str | None = None) -> str:
    with pytest.raises(InvalidInput) as caught:
        read_batch(source, text, format=form)
    return str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "form"),
    [(".yaml", "yaml"), (".YML", "yaml"), (".jsonl", "jsonl"), (".ndjson", "jsonl"), (".csv", "csv")],
)
def test_the_suffix_tells_the_format(suffix: str, form: str) -> None:
    assert read_batch("jobs" + suffix, TEXTS[form]).entries[0].where.startswith(f"jobs{suffix}:")


@pytest.mark.parametrize("form", ["yaml", "jsonl", "csv"])
@pytest.mark.parametrize("source", ["-", "/dev/fd/63"])
def test_what_has_no_name_is_recognised(source: str, form: str) -> None:
    assert [entry.tag for entry in read_batch(source, TEXTS[form]).entries] == ["a"]


@pytest.mark.parametrize("form", ["yaml", "jsonl", "csv"])
def test_a_format_that_is_said_overrules_the_suffix(form: str) -> None:
    assert [entry.tag for entry in read_batch("jobs.txt", TEXTS[form], format=form).entries] == ["a"]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("yaml", "puters:\n- tag: a\n  run: |\n    make\n    make test\n  env:\n    A: 'x'\n"),
        ("yaml", 'puters:\n- tag: a\n  run: "make\\r\\nmake test\\r\\n"\n  env: {A: x}\n'),
        ("jsonl", '{"tag": "a", "run": "make\\r\\nmake test\\r\\n", "env": {"A": "x"}}\n'),
        ("csv", 'tag,run,env.A\na,"make\nmake test\n",x\n'),
    ],
)
def test_a_file_that_was_saved_on_windows_is_the_same_batch(form: str, text: str) -> None:
    (entry,) = read_batch("-", ("\ufeff" + text.replace("\n", "\r\n")).encode(), format=form).entries

    assert (entry.spec.run, entry.spec.env) == ("make\nmake test\n", {"A": "x"})


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ('\n  {"tag": "a"}', Format.JSONL),
        ("run,tag\n", Format.CSV),
        ('"tag","run"\n', Format.CSV),
        ("tag\na\n", Format.CSV),
        ("puters:\n- tag, x\n", Format.YAML),
        ("- a\n", Format.YAML),
        ("", Format.YAML),
    ],
)
def test_formats_are_recognised_by_their_beginning(text: str, form: Format) -> None:
    assert recognised(text) is form


def test_standard_input_is_called_so() -> None:
    assert read_batch("-", b"puters: [a]").entries[0].where == "stdin:1"


def test_an_unknown_suffix_is_refused() -> None:
    assert refused("jobs.txt", b"a") == "batch file 'jobs.txt': name it .yaml, .jsonl or .csv, or give --format"


def test_an_unknown_format_is_refused() -> None:
    assert refused("-", b"a", "xml") == "format 'xml': write one of yaml, jsonl, csv"


@pytest.mark.parametrize("source", ["b.yaml", "b.jsonl", "b.csv", "-"])
def test_an_empty_file_is_refused(source: str) -> None:
    assert refused(source, b"\n ").endswith(": is empty: write at least one puter")


def test_what_is_not_utf_8_is_refused_with_its_line() -> None:
    assert refused("b.yaml", b"puters:\n- caf\xe9\n") == "b.yaml:2: is not valid UTF-8: save it as UTF-8"


def test_a_file_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puter_client.batch.read.MAX_FILE_BYTES", 10)

    assert refused("b.yaml", b"puters: [a]") == "b.yaml: is over 64 MiB: split it into several batches"


def test_a_file_is_read_no_further_than_one_byte_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puter_client.batch.source.MAX_FILE_BYTES", 10)

    assert read_source("-", io.BytesIO(b"x" * 100)) == b"x" * 11


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_bytes(b"puters: [a]")

    assert read_source(str(tmp_path / "b.yaml")) == b"puters: [a]"


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"gone.yaml': does not exist; check the path"):
        read_source(str(tmp_path / "gone.yaml"))


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is a directory; name a file in it"):
        read_source(str(tmp_path))


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(InvalidInput, match="is not a valid path"):
        read_source("a\0b")


def test_a_user_data_file_is_read_beside_the_batch_file(tmp_path: Path) -> None:
    (tmp_path / "boot.sh").write_text("#!/bin/sh\n")

    batch = read_batch(str(tmp_path / "b.yaml"), b"puters: [{tag: a, user_data_file: boot.sh}]")

    assert batch.entries[0].spec.user_data == "#!/bin/sh\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [("gone.sh", "does not exist"), ("folder", "is not a regular file"), ("pipe", "is not a regular file")],
)
def test_a_user_data_file_that_is_no_file_is_refused_without_waiting(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")

    said = refused(str(tmp_path / "b.yaml"), f"puters: [{{tag: a, user_data_file: {name}}}]".encode())

    assert f"puters[0].user_data_file: '{name}': {message}" in said


def test_importing_the_batch_module_loads_no_parser() -> None:
    code = "import puter_client.batch, sys; print(sorted({'yaml', 'csv', 'difflib'} & sys.modules.keys()))"

    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert found.stdout == "[]\n"
