"""Transactions: how guards and commands are handed to the script."""

from __future__ import annotations

from puter_worker.store.txn import Txn


def test_guards_come_first_each_of_four_words_and_commands_bring_their_length() -> None:
    txn = Txn()
    txn.expect("h", "f", b"1")
    txn.expect("h", "g", None)
    txn.expect_member("z", "m")
    txn.expect_length("l", 3)
    txn.do("SET", "k", "v")

    assert txn.args() == [
        4,
        *("hash", "h", "f", b"1"),
        *("no-hash", "h", "g", ""),
        *("member", "z", "m", ""),
        *("length", "l", "", 3),
        *(3, "SET", "k", "v"),
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
