"""A world in which nothing happens by itself: time passes only when it is told to, and every call waits for a decision.

Coroutines run on a real event loop whose clock is set by hand. Whatever leaves a process (a write to Redis, a call to
EC2) is parked first: it may then take effect, fail before its effect or after it, have its answer kept back, or never
be answered because its process is dead.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

PROCESS: contextvars.ContextVar[str] = contextvars.ContextVar("process")


class Fate(StrEnum):
    """The fate of a parked call."""

    WHOLE = "takes effect and is answered"
    UNSEEN = "takes effect; its answer comes later"
    LOST = "takes effect; its answer is lost"
    REFUSED = "fails before its effect"


@dataclass(eq=False)
class Call:
    """A call of a process to the world.

    Attributes:
        process: whose.
        what: `redis` or `ec2`.
        name: of the command or call.
        effect: carries it out.
        error: what its process sees if it fails; told whether it may have had its effect.
        sent_at: when it was parked.
        answer: of one that has had its effect, kept back.
    """

    process: str
    what: str
    name: str
    effect: Callable[[], Any]
    error: Callable[[bool], Exception]
    sent_at: float
    future: asyncio.Future[Any]
    done: bool = False
    answer: Any = None
    raised: Exception | None = None

    def take_effect(self) -> None:
        """Execute the call if it was not executed yet; a refused call has no effect, and the reason is its answer."""
        if self.done:
            return
        self.done = True
        try:
            self.answer = self.effect()
        except Exception as error:  # noqa: BLE001 - it is the asker's to deal with
            self.raised = error

    def answered(self) -> None:
        """Give its process the answer."""
        if self.future.done():
            return
        if self.raised is not None:
            self.future.set_exception(self.raised)
        else:
            self.future.set_result(self.answer)

    def fails(self, *, doubtful: bool) -> None:
        """Give its process an error instead."""
        if not self.future.done():
            self.future.set_exception(self.error(doubtful))


class HandLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is set by hand."""

    def __init__(self) -> None:
        self.at = 1_000.0
        super().__init__()

    def time(self) -> float:
        return self.at

    def run_until_quiet(self) -> None:
        """Run everything that needs neither time nor a decision about a parked call."""
        inner: Any = self
        while inner._ready or (inner._scheduled and inner._scheduled[0].when() <= self.at):
            self.call_soon(self.stop)
            self.run_forever()

    def next_timer(self) -> float | None:
        """When the next timer is due."""
        inner: Any = self
        return inner._scheduled[0].when() if inner._scheduled else None


@dataclass
class Steps:
    """The parked calls, and the processes that wait for them."""

    loop: HandLoop = field(default_factory=HandLoop)
    parked: list[Call] = field(default_factory=list)
    _tasks: dict[str, set[asyncio.Task[Any]]] = field(default_factory=dict)
    _dead: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.loop.set_task_factory(self._make_task)  # type: ignore[arg-type]
        # A process's last words are of no interest: what it raises is looked at by who started it.
        self.loop.set_exception_handler(lambda _loop, _context: None)

    # -- processes ----------------------------------------------------------------------------------------------

    def start(self, process: str, what: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin a coroutine in a process, and run it until it waits."""
        context = contextvars.copy_context()
        context.run(PROCESS.set, process)
        task = self.loop.create_task(what, context=context)
        self.loop.run_until_quiet()
        return task

    def kill(self, process: str) -> list[Call]:
        """End a process like kill -9; returns its calls that were not executed yet."""
        self._dead.add(process)
        left = [call for call in self.parked if call.process == process]
        self.parked = [call for call in self.parked if call.process != process]
        for task in self._tasks.pop(process, set()):
            task.cancel()
        self.loop.run_until_quiet()
        return [call for call in left if not call.done]

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, what: Coroutine[Any, Any, Any], **kwargs: Any
    ) -> asyncio.Task[Any]:
        context: contextvars.Context | None = kwargs.get("context")
        process = context.get(PROCESS) if context is not None else PROCESS.get(None)
        task: asyncio.Task[Any] = asyncio.Task(what, loop=loop, **kwargs)
        if process is not None:
            tasks = self._tasks.setdefault(process, set())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        return task

    # -- calls -----------------------------------------------------------------------------------------------

    async def ask(self, what: str, name: str, effect: Callable[[], Any], error: Callable[[bool], Exception]) -> Any:
        """Park a call of this process and wait for its answer."""
        process = PROCESS.get()
        if process in self._dead:
            raise asyncio.CancelledError
        future: asyncio.Future[Any] = self.loop.create_future()
        call = Call(process, what, name, effect, error, self.loop.at, future)
        self.parked.append(call)
        try:
            return await future
        finally:
            if call in self.parked:
                self.parked.remove(call)

    def let(self, call: Call, fate: Fate) -> None:
        """Decide the fate of a parked call, and let its process go on as far as it can."""
        if fate is Fate.UNSEEN:
            call.take_effect()
            return
        if fate is Fate.REFUSED and not call.done:
            call.fails(doubtful=False)
        elif fate is Fate.WHOLE:
            call.take_effect()
            call.answered()
        else:
            call.take_effect()
            call.fails(doubtful=True)
        self.loop.run_until_quiet()

    def oldest(self, process: str) -> Call | None:
        """The call of a process that was parked first."""
        return next((call for call in self.parked if call.process == process), None)

    def close(self) -> None:
        """End every process and the loop."""
        for process in list(self._tasks):
            self.kill(process)
        self.loop.close()
