"""In which parts requests are appended."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from puter_client.store.append import AT_ONCE, BYTES_AT_ONCE, parts


@given(sizes=st.lists(st.integers(1, 2 * BYTES_AT_ONCE), max_size=30) | st.lists(st.just(1), max_size=3 * AT_ONCE))
def test_all_are_appended_in_order_and_no_part_is_larger_than_need_be(sizes: list[int]) -> None:
    requests = [bytes(size) for size in sizes]

    found = list(parts(requests))

    assert [one for part in found for one in part] == requests
    assert all(len(part) <= AT_ONCE for part in found)
    assert all(len(part) == 1 or sum(map(len, part)) <= BYTES_AT_ONCE for part in found)
    assert all(
        len(part) == AT_ONCE or sum(map(len, part)) + len(following[0]) > BYTES_AT_ONCE
        for part, following in pairwise(found)
    )
