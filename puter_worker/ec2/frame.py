"""The end frame: how a machine's agent says on the console how its workload ended, and how it is read back.

A console is text of up to 64 KB that anybody on the machine can write to, and into which the kernel writes between and
within lines. So a frame is lines of this form, written twice (`userdata/agent.sh` writes them):

```
puter:frame NONCE DIGEST I/N TEXT SUM
```

* NONCE: the id of the intent that launched the machine, 16 hex digits: what an earlier machine's disk brought along has
  another one.
* DIGEST: the first 12 hex digits of the SHA-256 of the whole text; lines of two texts are never mixed.
* I/N: this is the I-th of N lines, from 1.
* TEXT: up to 240 characters of the base64 of the frame's content.
* SUM: the first 8 hex digits of the SHA-256 of `NONCE DIGEST I/N TEXT`; a line that something broke into does not hold.

The content is lines of `name=value` (`v` is 1; `result`, `exit_code`, `started_at`, `finished_at`, `reason`,
`output_bytes`, and `member` if the machine read its place from its tag), an empty line, and the last bytes of the
workload's output.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections import defaultdict

import msgspec

from puter_client.contract.result import Result

_ANY_LINE = re.compile(r"puter:frame [^\n]*\n?")
MAX_LINES = 80  # 16 KB of at least 200 characters a line
MAX_REASON = 300
_LINE = re.compile(
    r"puter:frame (([0-9a-f]{16}) ([0-9a-f]{12}) ([0-9]{1,3})/([0-9]{1,3}) ([A-Za-z0-9+/=]{1,240})) ([0-9a-f]{8})"
)
_FAILED_EXIT = 255


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """How a workload ended, as its machine says.

    Attributes:
        result: succeeded, failed, timed_out, interrupted or stopped.
        exit_code: of the workload, 0 to 255; 128 + n if signal n ended it.
        started_at: seconds since 1970 by the machine's clock; None if it did not begin.
        finished_at: the same.
        reason: why it ended so, in plain words; None if its exit code says all.
        member: the machine's place among those of its launch, if it read that from its tag.
        output: the last of what it printed; what is not UTF-8 is replaced.
        output_bytes: how much it has printed in all.
    """

    result: Result
    exit_code: int
    started_at: float | None = None
    finished_at: float | None = None
    reason: str | None = None
    member: int | None = None
    output: str = ""
    output_bytes: int = 0


def read_frame(console: str, nonce: str) -> Frame | None:
    """The frame with this nonce on a console; None if there is no whole one. Nothing on a console makes it raise."""
    lines: dict[tuple[str, int], dict[int, str]] = defaultdict(dict)
    for found in _LINE.finditer(console):
        said, of, digest, number, total, text, claimed = found.groups()
        if of != nonce or not 1 <= int(number) <= int(total) <= MAX_LINES:
            continue
        if hashlib.sha256(said.encode()).hexdigest()[:8] == claimed:
            lines[digest, int(total)][int(number)] = text
    for (digest, total), by_number in lines.items():
        if len(by_number) < total:
            continue
        text = "".join(by_number[number] for number in range(1, total + 1))
        if hashlib.sha256(text.encode()).hexdigest()[:12] == digest and (frame := _content(text)) is not None:
            return frame
    return None


def without_frames(console: str) -> str:
    """What people want to see of a console: all lines but those of frames, and no runs of empty lines."""
    return re.sub(r"\n{3,}", "\n\n", _ANY_LINE.sub("", console.replace("\r\n", "\n")))


def _content(text: str) -> Frame | None:
    try:
        head, _, output = base64.b64decode(text, validate=True).partition(b"\n\n")
        fields = dict(line.split("=", 1) for line in head.decode().split("\n") if "=" in line)
        result = Result(fields["result"])
    except (binascii.Error, ValueError, KeyError):
        return None
    exit_code = _number(fields.get("exit_code"))
    if fields.get("v") != "1" or exit_code is None or exit_code > _FAILED_EXIT or result is Result.LOST:
        return None
    return Frame(
        result=result,
        exit_code=exit_code,
        started_at=_number(fields.get("started_at")),
        finished_at=_number(fields.get("finished_at")),
        reason=fields.get("reason", "")[:MAX_REASON] or None,
        member=_number(fields.get("member")),
        output=output.decode(errors="replace"),
        output_bytes=_number(fields.get("output_bytes")) or 0,
    )


def _number(text: str | None) -> int | None:
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > 12:
        return None
    return int(text)
