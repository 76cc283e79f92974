"""Errors that a user or a program may meet.

```
PuterError                 code, exit_code; its text is one line that says what was wrong and what to do
├── InvalidInput           exit 2: something typed or written in a file cannot be used
├── EngineError            exit 3: the local engine could not be started or used
├── StoreUnavailable       exit 3: Redis did not answer
├── NoWorker               exit 3: nobody takes the requests
└── WaitTimedOut           exit 4: what was waited for did not come in time
```
"""

from __future__ import annotations

from typing import ClassVar


class PuterError(Exception):
    """Base of every error of Puter's; `str(error)` is written for the person who caused it.

    Attributes:
        code: a stable name for programs.
        exit_code: what a command that meets it exits with.
    """

    code: ClassVar[str] = "PuterError"
    exit_code: ClassVar[int] = 1


class InvalidInput(PuterError):
    """Something typed or written in a file cannot be used.

    Attributes:
        problems: one line a problem; the text is all of them.
    """

    code: ClassVar[str] = "InvalidInput"
    exit_code: ClassVar[int] = 2

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class EngineError(PuterError):
    """The local engine could not be started or used."""

    code: ClassVar[str] = "EngineError"
    exit_code: ClassVar[int] = 3


class StoreUnavailable(PuterError):
    """Redis did not answer, or refused."""

    code: ClassVar[str] = "StoreUnavailable"
    exit_code: ClassVar[int] = 3


class NoWorker(PuterError):
    """No worker announces itself, so nobody would take the requests."""

    code: ClassVar[str] = "NoWorker"
    exit_code: ClassVar[int] = 3


class WaitTimedOut(PuterError):
    """What was waited for did not come in time; the requests go on."""

    code: ClassVar[str] = "WaitTimedOut"
    exit_code: ClassVar[int] = 4
