"""Errors that a user or a program may meet.

The client's errors, each with the exit code of a command that meets it; a test compares the tree with the classes.

```
PuterError                    exit 1: the text is one line that says what was wrong and what to do
├── InvalidInput              exit 2: something typed or written in a file cannot be used
│   ├── AddressUnknown        exit 2: this machine's own address could not be found out
│   └── InvalidSpec           exit 2: fields of a spec cannot be used
├── DemoFailed                exit 1: the demonstration did not come to its end
├── EngineError               exit 3: the local engine could not be started or used
├── IllegalTransition         exit 1: a record would change as the contract does not allow: an internal error
├── NoMachine                 exit 1: there is no machine that ssh could reach now
├── NoWorker                  exit 3: no worker takes the requests
├── NoOutput                  exit 1: nothing is known of what a workload has printed
├── NotKnown                  exit 1: a tag or batch is not known
├── NothingYet                exit 1: nobody has ever requested anything here
├── OutputLost                exit 1: standard output could not be written
├── ProgramMissing            exit 127: ssh or rsync is not installed
├── RequestsGone          exit 1: workers have taken requests and kept nothing of them, or Redis has lost them
├── StoreUnavailable          exit 3: Redis did not answer, or refused
│   ├── NotPermitted          exit 3: Redis does not permit this to its user: nothing of it was done
│   └── NotSignedIn           exit 3: Redis does not take the user or the password of an administrator
├── UsersRefused              exit 1: Redis does not take its file of users
├── WaitTimedOut              exit 4: what was waited for did not come in time
└── WorkerNotInstalled        exit 3: the worker's packages are not installed
```
"""

from __future__ import annotations

from typing import Any, ClassVar


class PuterError(Exception):
    """Base of every error of Puter's; `str(error)` is written for the person who caused it.

    Attributes:
        code: a stable name for programs: that of the class, unless the class says otherwise.
        exit_code: what a command that meets it exits with.
    """

    code: ClassVar[str] = "PuterError"
    exit_code: ClassVar[int] = 1

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # An inherited code would name two errors alike.
        super().__init_subclass__(**kwargs)
        if "code" not in cls.__dict__:
            cls.code = cls.__name__


class InvalidInput(PuterError):
    """Something typed or written in a file cannot be used.

    Attributes:
        subject: what the problems are about, if the place that tells them may name it otherwise.
        message: the problems without their subject.
        problems: one line a problem, with the subject; the text is all of them.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, *problems: str, subject: str | None = None) -> None:
        self.subject = subject
        self.message = "\n".join(problems)
        self.problems = tuple(f"{subject} {problem}" for problem in problems) if subject else problems
        super().__init__("\n".join(self.problems))


class EngineError(PuterError):
    """The local engine could not be started or used."""

    exit_code: ClassVar[int] = 3


class StoreUnavailable(PuterError):
    """Redis did not answer, or refused."""

    exit_code: ClassVar[int] = 3


class NotPermitted(StoreUnavailable):
    """Redis does not permit this to its user: nothing of it was done."""


class NoWorker(PuterError):
    """No worker announces itself, so nobody would take the requests."""

    exit_code: ClassVar[int] = 3


class RequestsGone(PuterError):
    """Workers have taken requests and kept nothing of them, or Redis has lost them."""


class WaitTimedOut(PuterError):
    """What was waited for did not come in time; the requests go on."""

    exit_code: ClassVar[int] = 4
