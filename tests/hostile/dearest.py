"""`python -m tests.hostile.dearest [SEED [COUNT]]`: what requests cost a worker, the dearest of each kind.

A request costs its decoding and its checks, and where it is refused, reading whom to tell. Counted is CPU time, with
nothing cached: the least of three times, and of another 30 if it seems to be the dearest, since other processes on the
same core make any of them longer.
"""

from __future__ import annotations

import sys
import time
from itertools import islice

from puter_client.contract.errors import InvalidInput
from puter_client.contract.readers import parse_cidr
from puter_client.contract.userdata import parts_of
from puter_worker.stages.decode import addressee_of, decode_request
from tests.hostile.requests import kinds_of_requests


def cost_ms(raw: bytes, times: int = 3) -> tuple[float, str]:
    """The CPU time of one request, in milliseconds, and what became of it."""
    costs: list[float] = []
    outcome = "accepted"
    for _ in range(times):
        parts_of.cache_clear()
        parse_cidr.cache_clear()
        began = time.process_time()
        try:
            decode_request(raw)
        except InvalidInput as error:
            addressee_of(raw)
            outcome = str(error)
        costs.append(time.process_time() - began)
    return min(costs) * 1_000, outcome


def main() -> None:
    """Print a line for each kind, the dearest first."""
    seed, count = (*map(int, sys.argv[1:]), *(1, 10_000)[len(sys.argv) - 1 :])
    dearest: dict[str, tuple[float, int, str]] = {}
    total = 0.0
    for kind, raw in islice(kinds_of_requests(seed), count):
        cost, outcome = cost_ms(raw)
        total += cost
        if cost > dearest.get(kind, (0.0, 0, ""))[0]:
            cost = min(cost, cost_ms(raw, 30)[0])
        dearest[kind] = max(dearest.get(kind, (0.0, 0, "")), (cost, len(raw), outcome))
    print(f"seed {seed}: {count:,} requests cost {total:,.0f} ms")
    for kind, (cost, size, outcome) in sorted(dearest.items(), key=lambda item: item[1], reverse=True):
        print(f"{cost:8.2f} ms  {size:7,} bytes  {kind:28}  {outcome[:80]}")


if __name__ == "__main__":
    main()
