"""CSV batch files: a header of field names, a row a puter."""

from __future__ import annotations

import pytest

from puter_client.batch import Batch, read_batch
from puter_client.contract.errors import InvalidInput


def read(text: str) -> Batch:
    return read_batch("b.csv", text.encode())


def refused(text: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        read(text)
    return str(caught.value)


def test_each_row_is_an_entry() -> None:
    batch = read("tag,region\na,us-east-1\nb,us-west-2\n")

    assert [(entry.tag, entry.spec.region) for entry in batch.entries] == [("a", "us-east-1"), ("b", "us-west-2")]


def test_an_empty_cell_is_not_written() -> None:
    assert read("tag,region,env.A,run\na,,,\n").entries[0].spec.region is None


def test_variables_and_tags_have_columns_of_their_own() -> None:
    spec = read("tag,run,env.A,env.B,aws_tags.team,aws_tags.Cost Center\na,x,0.10,,red,R/1\n").entries[0].spec

    assert (spec.env, spec.aws_tags) == ({"A": "0.10"}, {"team": "red", "Cost Center": "R/1"})


def test_cidrs_are_separated_by_spaces() -> None:
    assert read("tag,ssh_from\na,10.0.0.1 10.1.0.0/16\n").entries[0].spec.ssh_from == ("10.0.0.1/32", "10.1.0.0/16")


def test_quoted_cells_hold_commas_quotes_and_line_breaks() -> None:
    assert read('tag,run\na,"say ""a, b""\nand c"\n').entries[0].spec.run == 'say "a, b"\nand c'


def test_a_row_is_named_by_the_line_it_begins_in() -> None:
    batch = read('tag,run\r\na,"1\r\n2\r\n3"\r\n\r\nb,x\r\n')

    assert [entry.where for entry in batch.entries] == ["b.csv:2", "b.csv:6"]


def test_a_byte_order_mark_and_spaces_in_the_header_are_passed_over() -> None:
    assert read("\ufefftag, run\na,x\n").entries[0].spec.run == "x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tag,run\na\n", "b.csv:2: has 1 cells, the header 2: quote cells with commas"),
        ("tag,run\na,b,c\n", "b.csv:2: has 3 cells, the header 2: quote cells with commas"),
        ("tag,colour\na,b\n", "b.csv:1: column 'colour': unknown field; known are alone, ami, aws_tags.NAME"),
        ("tag,instance-type\na,b\n", "b.csv:1: column 'instance-type': unknown field; did you mean instance_type?"),
        ("tag,run,run\na,b,c\n", "b.csv:1: column 'run': duplicate column: keep one"),
        ("tag,run,env.A,env.A\na,b,c,d\n", "b.csv:1: column 'env.A': duplicate column: keep one"),
        ("tag,\na,b\n", "b.csv:1: column '': has no name"),
        ("tag,env\na,b\n", "b.csv:1: column 'env': write a column a name: env.NAME"),
        ("tag,env.\na,b\n", "b.csv:1: column 'env.': write the name after the dot: env.NAME"),
        ("tag,namespace\na,b\n", "b.csv:1: column 'namespace': belongs at the top of a YAML file"),
        ("tag;run\na;b\n", "b.csv:1: column 'tag;run': separate columns with commas"),
        ("run\nb\n", "b.csv:1: the header has no column tag"),
        ("tag,run\n", "b.csv: has no puters: write at least one"),
        ("tag,run\n,x\n", "b.csv:2: tag: is missing"),
        ('tag,run\na,"x\n', "b.csv:2: is not valid CSV: unexpected end of data"),
        ('tag,run\na,"x"y\n', "b.csv:2: is not valid CSV: "),
        ("tag,env.a-b\na,x\n", "b.csv:2: env: 'a-b': name variables with letters"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused_with_its_line(text: str, message: str) -> None:
    assert message in refused(text)


def test_rows_below_a_wrong_header_are_checked_too() -> None:
    first, *others = refused("tag,colour,disk\na,red,9\nb,blue,big\nc,red\n").splitlines()
    assert first.startswith("b.csv:1: column 'colour': unknown")
    assert others == [
        "b.csv:3: disk: 'big': write a whole number of GiB, 1 to 65536",
        "b.csv:4: has 2 cells, the header 3: quote cells with commas",
    ]


def test_a_column_tag_that_is_missing_is_told_once_and_the_rest_is_checked() -> None:
    assert refused("disk\n9\n9\nbig\n").splitlines() == [
        "b.csv:1: the header has no column tag: every puter needs one",
        "b.csv:4: disk: 'big': write a whole number of GiB, 1 to 65536",
    ]


def test_below_a_header_of_which_nothing_can_be_used_nothing_is_checked() -> None:
    assert len(refused("tag;run\na;b,c\n").splitlines()) == 2


def test_rows_beside_a_wrong_one_are_checked_too() -> None:
    assert len(refused("tag,disk\na\nb,big\nc,huge\n").splitlines()) == 3
