"""Transactions: how guards and commands are handed to the script."""

from __future__ import annotations

from typing import Any

import msgspec

from puter_worker.store.names import WAKE
from puter_worker.store.txn import Txn


def handed_over(txn: Txn) -> Any:
    first, *others = args = txn.args()

    def word(said: Any) -> Any:
        return args[said[0] - 1] if isinstance(said, list) else said

    guards, commands = msgspec.msgpack.decode(first)
    assert all(isinstance(other, bytes) for other in others)
    return [[[*map(word, words)] for words in some] for some in (guards, commands)]


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
        txn.do("RPUSH", "l", "x")
        txn.once("SADD", "s", "x")
    txn.once("SADD", "s", "y")

    assert handed_over(txn)[1] == [["RPUSH", "l", "x"], ["SADD", "s", "x"], ["RPUSH", "l", "x"], ["SADD", "s", "y"]]


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
