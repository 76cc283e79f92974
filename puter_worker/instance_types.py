"""The instance types of one target: what EC2 says of them, read beside whoever needs it.

Requests name types as they like, so what they name must neither hold up other requests nor take a call each. One call
at a time reads many types, of everybody in turns; that a type does not exist is remembered too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import islice
from operator import itemgetter

from puter_worker.clock import Clock
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.images import InstanceType, describe_types
from puter_worker.errors import StageError, is_final
from puter_worker.tasks import cancel_all
from puter_worker.timings import Timings
from puter_worker.turns import take_turns

Known = InstanceType | StageError
A_CALL = 50
"""Names in one call: EC2 allows 200 in a filter, and describes each type that exists with several kilobytes."""
MOST_WANTED = 4 * A_CALL
"""Names that one owner waits for; it asks for more when it is told of these."""
MOST_KNOWN = 2_000
_LAUNCHES = ""  # launches that have begun: few at a time


def _nobody(_owner: str) -> None:
    return None


class InstanceTypes:
    """What is known of instance types, and who waits for what.

    Attributes:
        on_read: called with each owner once all that it wanted is known.
    """

    def __init__(self, caller: Caller, *, clock: Clock, timings: Timings) -> None:
        self.on_read: Callable[[str], None] = _nobody
        self._caller = caller
        self._clock = clock
        self._timings = timings
        self._known: dict[str, tuple[float, Known]] = {}  # name → until when it is used, what EC2 said
        self._wanted: dict[str, dict[str, asyncio.Future[Known]]] = {}  # owner → name; who waits longest comes first
        self._reading: asyncio.Task[None] | None = None

    def known(self, name: str) -> Known | None:
        """A type; the error in its place; or None: it is not known."""
        until, what = self._known.get(name, (0.0, None))
        return what if self._clock.monotonic() < until else None

    def want(self, owner: str, names: Iterable[str]) -> None:
        """Have these types read, as far as the owner does not want MOST_WANTED already; `on_read` follows."""
        for name in names:
            if len(self._wanted.get(owner, ())) < MOST_WANTED:
                self._ask(owner, name)

    def _ask(self, owner: str, name: str) -> asyncio.Future[Known]:
        wanted = self._wanted.setdefault(owner, {})
        if name not in wanted:
            wanted[name] = asyncio.get_running_loop().create_future()
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        return wanted[name]

    def is_reading(self, owner: str) -> bool:
        """Whether `on_read` is still to be called with the owner."""
        return owner in self._wanted

    async def of(self, name: str) -> InstanceType:
        """A type, for a launch that has begun.

        Raises:
            StageError: see `describe_types`.
        """
        what = self.known(name)
        if what is None or (isinstance(what, StageError) and not is_final(what)):
            what = await asyncio.shield(self._ask(_LAUNCHES, name))
        if isinstance(what, StageError):
            raise what.with_traceback(None)  # it may be raised again and again, and would keep the traceback of each
        return what

    async def drain(self) -> None:
        """Read nothing more; nobody waits for it any more either."""
        if self._reading is not None:
            await cancel_all([self._reading])
        for future in [future for wanted in self._wanted.values() for future in wanted.values()]:
            future.cancel()
        self._wanted.clear()

    async def _read(self) -> None:
        while self._wanted:
            owners = {owner: list(islice(names, A_CALL)) for owner, names in islice(self._wanted.items(), A_CALL)}
            pairs = take_turns(((owner, name) for owner, names in owners.items() for name in names), itemgetter(0))
            names = list(dict.fromkeys(name for _, name in pairs))[:A_CALL]
            try:
                found = await describe_types(self._caller, names)
            except StageError as error:
                self._put(dict.fromkeys(names, error), error_s=self._timings.launch_again_s)
            else:
                self._put(found, error_s=self._timings.no_type_s)
            for owner in [owner for owner in owners if owner in self._wanted]:
                self._wanted[owner] = self._wanted.pop(owner)  # others come first now

    def _put(self, found: dict[str, Known], *, error_s: float) -> None:
        now = self._clock.monotonic()
        for name, what in found.items():
            self._known.pop(name, None)  # the latest are last
            for_s = error_s if isinstance(what, StageError) else self._timings.target_cache_s
            self._known[name] = (now + for_s, what)
        if len(self._known) > MOST_KNOWN:
            self._drop_old(now)
        for owner, wanted in list(self._wanted.items()):
            for name in found.keys() & wanted.keys():
                future = wanted.pop(name)
                if not future.done():
                    future.set_result(found[name])
            if not wanted:
                del self._wanted[owner]
                self.on_read(owner)

    def _drop_old(self, now: float) -> None:
        """Make room. There are not so many types, but any number of names of none."""
        self._known = {name: one for name, one in self._known.items() if now < one[0]}
        errors = [name for name, (_, what) in self._known.items() if isinstance(what, StageError)]
        for name in errors[: max(0, len(self._known) - MOST_KNOWN // 2)]:
            del self._known[name]
