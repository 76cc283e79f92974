"""Transactions: how guards and commands are handed to the script."""

from __future__ import annotations

from itertools import islice
from typing import Any

import msgspec
import pytest

from puter_worker.store.names import WAKE
from puter_worker.store.txn import PART_BYTES, Txn


def handed_over(txn: Txn) -> Any:
    """The guards and commands, joined as `txn.lua` does it."""
    many, *args = txn.args()
    assert all(len(arg) <= PART_BYTES for arg in args)
    rest = iter(args)
    *lists, places = msgspec.msgpack.decode(b"".join(islice(rest, int(many))))
    for which, number, place, parts in places:
        lists[which - 1][number - 1][place - 1] = b"".join(islice(rest, parts))
    assert not list(rest)
    return lists


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES + 5])
@pytest.mark.parametrize("word", ["\xe9", b"\xff"])
def test_no_argument_is_larger_than_the_least_that_a_redis_can_be_set_to_take(word: str | bytes, size: int) -> None:
    txn = Txn()
    txn.expect_length("l", 0)
    txn.do("RPUSH", "l", word * size, b"\xff", "x")

    assert handed_over(txn) == [[["length", "l", "", 0]], [["RPUSH", "l", word * size, b"\xff", "x"]]]


def test_guards_come_first_each_of_four_words_and_then_commands_in_their_order() -> None:
    txn = Txn()
    txn.expect("h", "f", b"1")
    txn.expect("h", "g", None)
    txn.expect_member("z", "m")
    txn.expect_length("l", 3)
    txn.expect_size("s", 2)
    txn.expect_head("l", b"\xff")
    txn.do("SET", "k", b"\xff")
    txn.do("ZADD", "z", 1.5, "m")

    assert handed_over(txn) == [
        [
            ["hash", "h", "f", b"1"],
            ["no-hash", "h", "g", ""],
            ["member", "z", "m", ""],
            ["length", "l", "", 3],
            ["size", "s", "", 2],
            ["head", "l", "", b"\xff"],
        ],
        [["SET", "k", b"\xff"], ["ZADD", "z", 1.5, "m"]],
    ]


def test_guards_are_numbered_from_nought() -> None:
    txn = Txn()

    assert [txn.expect("h", "f", None), txn.expect_member("z", "m"), txn.guards] == [0, 1, 2]


def test_a_transaction_without_commands_is_nothing() -> None:
    txn = Txn()
    txn.expect("h", "f", None)

    assert not txn
    txn.do("DEL", "h")
    assert txn


def test_a_command_is_repeated_unless_it_is_wanted_once() -> None:
    txn = Txn()
    for _ in range(2):
        txn.do("INCR", "n")
        txn.once("SADD", "s", "x")
    txn.once("SADD", "s", "y")

    assert handed_over(txn)[1] == [["INCR", "n"], ["SADD", "s", "x"], ["INCR", "n"], ["SADD", "s", "y"]]


def test_elements_of_one_key_are_added_by_one_command() -> None:
    txn = Txn()
    for n in range(3):
        txn.do("ZADD", "z", n, f"m{n}")
        txn.do("HSET", "h", f"f{n}", b"\xff")

    assert handed_over(txn)[1] == [
        ["ZADD", "z", 0, "m0", 1, "m1", 2, "m2"],
        ["HSET", "h", "f0", b"\xff", "f1", b"\xff", "f2", b"\xff"],
    ]


def test_commands_with_flags_or_another_one_of_the_key_between_them_stay_apart() -> None:
    txn = Txn()
    commands: list[tuple[Any, ...]] = [
        ("ZADD", "z", 1, "m"),
        ("ZADD", "z", "XX", 2, "m"),
        ("ZADD", "z", 3, "m"),
        ("ZREM", "z", "m"),
        ("ZADD", "z", 4, "m"),
        ("RPUSH", "l", "x"),
        ("LTRIM", "l", 1, -1),
        ("RPUSH", "l", "y"),
    ]
    for command in commands:
        txn.do(*command)

    assert handed_over(txn)[1] == [list(command) for command in commands]


def test_a_joined_command_fits_on_the_stack_of_redis_lua() -> None:
    txn = Txn()
    for n in range(20_000):
        txn.do("RPUSH", "l", n)

    commands = handed_over(txn)[1]

    assert max(map(len, commands)) <= 8_000
    assert [word for command in commands for word in command[2:]] == list(range(20_000))


def test_a_key_is_kept_for_the_longest_that_is_requested_after_it_is_written() -> None:
    txn = Txn()
    txn.keep("k", 10)
    txn.keep("k", 20)
    txn.keep("k", 15)
    txn.do("SET", "k", "v")

    assert txn
    assert handed_over(txn)[1] == [["SET", "k", "v"], ["EXPIRE", "k", 20]]


def test_whom_a_transaction_wakes_is_told_once_each_and_after_all_is_written() -> None:
    txn = Txn()
    txn.wake("jobs")
    txn.keep("k", 10)
    txn.wake("moving")
    txn.wake("jobs")
    txn.do("SET", "k", "v")

    assert handed_over(txn)[1] == [["SET", "k", "v"], ["EXPIRE", "k", 10], ["PUBLISH", WAKE, "jobs\nmoving"]]


def test_a_transaction_that_writes_nothing_need_not_wake_anybody() -> None:
    txn = Txn()
    txn.wake("jobs")

    assert not txn
