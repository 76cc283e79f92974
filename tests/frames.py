"""End frames as the agent writes them, for tests without an agent."""

from __future__ import annotations

import base64
import hashlib

from puter_client.contract.result import Result


def lines_of(content: bytes, nonce: str, size: int = 240) -> list[str]:
    """The lines of one copy of a frame with this content."""
    text = base64.b64encode(content).decode()
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    total = -(-len(text) // size)
    lines = []
    for n in range(total):
        said = f"{nonce} {digest} {n + 1}/{total} {text[n * size : (n + 1) * size]}"
        lines.append(f"puter:frame {said} {hashlib.sha256(said.encode()).hexdigest()[:8]}")
    return lines


def frame(
    nonce: str,
    exit_code: int = 0,
    output: str = "",
    *,
    result: Result | None = None,
    reason: str = "",
    member: str | None = None,
) -> str:
    """What a console shows at the end of a workload: both copies. `member`: the machine's tag `puter:member`."""
    said = result or (Result.FAILED if exit_code else Result.SUCCEEDED)
    place = "" if member is None else f"member={member}\n"
    head = f"v=1\nresult={said}\nexit_code={exit_code}\nreason={reason}\n{place}output_bytes={len(output.encode())}\n\n"
    return "\r\n".join(["", *lines_of((head + output).encode(), nonce), ""]) * 2
