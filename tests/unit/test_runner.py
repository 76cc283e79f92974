"""How stages are run: woken, paused, told of, and ended; in time that passes only when everybody waits."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

import pytest
from redis.exceptions import ConnectionError as RedisGone
from structlog.testing import capture_logs

from puter_client.contract.health import StageHealth
from puter_worker.clock import Clock
from puter_worker.errors import CredentialsError, Ec2Error, Handling, NotReached, WrongAccount
from puter_worker.runner import Runner
from puter_worker.stages.stage import Stage
from puter_worker.store.wakeups import EVERYTHING
from puter_worker.tasks import cancel_all
from puter_worker.timings import Timings

T = TypeVar("T")
TIMINGS = Timings()
GAP_S, AFTER_ERROR_S, AFTER_CREDENTIALS_S = (
    TIMINGS.least_gap_s,
    TIMINGS.after_error_s,
    TIMINGS.after_credentials_error_s,
)
LONG_S = 1_000.0
SINCE_1970 = 1_800_000_000.0


class _Selector(selectors.SelectSelector):
    """Instead of waiting it lets time pass."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found:
            assert timeout is not None, "everybody waits for what will never happen"
            self.at += timeout
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes at once."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.at


class LoopClock(Clock):
    """The clocks of a host whose time is the event loop's."""

    def now(self) -> float:
        return SINCE_1970 + asyncio.get_running_loop().time()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class Acting(Stage):
    """A stage that does as it is told: each run takes its time, and ends with a pause or an error.

    Attributes:
        began_at: when each of its runs began.
        ended: how many ended by themselves.
        drained_at: when it was drained.
    """

    def __init__(
        self,
        *outcomes: float | Exception,
        name: str = "acting",
        topics: Sequence[str] = (),
        takes_s: float = 0.0,
        least_gap_s: float | None = None,
    ) -> None:
        """`outcomes`: of one run after the other; the last of them of all others."""
        super().__init__()
        self.name = name
        self.topics = frozenset(topics)
        self.least_gap_s = least_gap_s
        self._outcomes = outcomes
        self._takes_s = takes_s
        self.began_at: list[float] = []
        self.ended = 0
        self.drained_at: float | None = None

    async def run_once(self) -> float:
        outcome = self._outcomes[min(len(self.began_at), len(self._outcomes) - 1)]
        self.began_at.append(asyncio.get_running_loop().time())
        if self._takes_s:
            await asyncio.sleep(self._takes_s)
        self.ended += 1
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def drain(self) -> None:
        self.drained_at = asyncio.get_running_loop().time()


class Told:
    """Wakeups that a test tells; an error breaks the subscription."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[str | Exception] = asyncio.Queue()
        self.subscribed_at: list[float] = []

    def tell(self, *topics: str | Exception) -> None:
        for topic in topics:
            self._queue.put_nowait(topic)

    async def topics(self) -> AsyncIterator[str]:
        self.subscribed_at.append(asyncio.get_running_loop().time())
        while True:
            said = await self._queue.get()
            if isinstance(said, Exception):
                raise said
            yield said

    async def requests(self) -> AsyncIterator[str]:
        await asyncio.Event().wait()  # no client says anything
        yield ""


class Bench:
    """A runner, and what tells it topics."""

    def __init__(self, *stages: Stage, where: str = "") -> None:
        self.told = Told()
        wakeups: Any = self.told
        self.runner = Runner(wakeups, clock=LoopClock(), timings=TIMINGS)
        self.listening = asyncio.create_task(self.runner.listen())
        self.runner.start(stages, where=where)

    async def passes(self, seconds: float) -> None:
        """Time passes, and whatever is due in it happens."""
        await asyncio.sleep(seconds)

    def health_of(self, name: str) -> StageHealth:
        return next(health for health in self.runner.health() if health.name == name)


def run(what: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(what)


# -- pauses ---


def test_a_stage_runs_again_when_it_wants_to() -> None:
    async def about() -> None:
        stage = Acting(3.0, 0.5, LONG_S)
        bench = Bench(stage)

        await bench.passes(20.0)

        assert stage.began_at == pytest.approx([0.0, 3.0, 3.5])

    run(about())


def test_the_pause_begins_when_the_run_has_ended() -> None:
    async def about() -> None:
        stage = Acting(3.0, takes_s=GAP_S / 2)
        bench = Bench(stage)

        await bench.passes(3.0 + GAP_S)

        assert stage.began_at == pytest.approx([0.0, 3.0 + GAP_S / 2])

    run(about())


@pytest.mark.parametrize(("least_gap_s", "gap_s"), [(None, GAP_S), (0.1, 0.1)], ids=["usual", "its own"])
def test_a_stage_that_wants_to_run_at_once_leaves_a_gap(least_gap_s: float | None, gap_s: float) -> None:
    async def about() -> None:
        stage = Acting(0.0, least_gap_s=least_gap_s)
        bench = Bench(stage)

        await bench.passes(4.5 * gap_s)

        assert stage.began_at == pytest.approx([n * gap_s for n in range(5)])

    run(about())


def test_the_gap_is_between_two_begins() -> None:
    async def about() -> None:
        stage = Acting(0.0, takes_s=0.25, least_gap_s=0.1)
        bench = Bench(stage)

        await bench.passes(1.0)

        assert stage.began_at[:4] == pytest.approx([0.0, 0.25, 0.5, 0.75])

    run(about())


# -- errors ---


@pytest.mark.parametrize(
    ("error", "pause_s"),
    [
        (CredentialsError("sign in"), AFTER_CREDENTIALS_S),
        (WrongAccount("lab", wanted="1", found="2"), AFTER_CREDENTIALS_S),
        (Ec2Error("RequestExpired", "expired", handling=Handling.CREDENTIALS), AFTER_CREDENTIALS_S),
        (Ec2Error("RequestLimitExceeded", "too fast", handling=Handling.THROTTLED), AFTER_ERROR_S),
        (NotReached("no network"), AFTER_ERROR_S),
        (RedisGone("gone"), AFTER_ERROR_S),
        (OSError("gone"), AFTER_ERROR_S),
        (KeyError("a defect"), AFTER_ERROR_S),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_after_an_error_a_stage_pauses_and_the_others_go_on(error: Exception, pause_s: float) -> None:
    async def about() -> None:
        failing, other = Acting(error, LONG_S), Acting(0.5, name="other")
        bench = Bench(failing, other)

        with capture_logs() as logs:
            await bench.passes(10.1)

        assert failing.began_at == pytest.approx([0.0, pause_s])
        assert len(other.began_at) == 21
        assert len(logs) == 1

    run(about())


@pytest.mark.parametrize(
    ("error", "event", "told"),
    [
        (Ec2Error("Blocked", "no"), "stage.refused", {"code": "Blocked", "message": "no", "target": "t"}),
        (RedisGone("secret"), "redis.unavailable", {"error": "ConnectionError"}),
        (KeyError("x"), "stage.failed", {"target": "t"}),
    ],
    ids=["EC2's", "Redis's", "defect"],
)
def test_each_kind_of_error_is_told_in_its_way(error: Exception, event: str, told: dict[str, str]) -> None:
    async def about() -> None:
        with capture_logs() as logs:
            bench = Bench(Acting(error, LONG_S), where="t")
            await bench.passes(0.5)

        (line,) = logs
        assert {"event": event, "stage": "acting", **told}.items() <= line.items()
        assert ("exc_info" in line) == (event == "stage.failed")

    run(about())


def test_an_error_that_stays_the_same_is_told_once_a_minute() -> None:
    async def about() -> None:
        with capture_logs() as logs:
            await Bench(Acting(Ec2Error("Blocked", "no"))).passes(125.0)

        assert len(logs) == 3

    run(about())


def test_another_error_and_one_after_a_success_are_told_at_once() -> None:
    async def about() -> None:
        one, other = Ec2Error("Blocked", "no"), Ec2Error("Blocked", "never")
        with capture_logs() as logs:
            await Bench(Acting(one, one, other, 0.5, other, other, LONG_S)).passes(20.0)

        assert [line["message"] for line in logs] == ["no", "never", "never"]

    run(about())


def test_nothing_wakes_a_stage_that_pauses_after_an_error() -> None:
    async def about() -> None:
        stage = Acting(RedisGone("gone"), topics=["mine"])
        bench = Bench(stage)

        for _ in range(30):
            bench.told.tell("mine", EVERYTHING)
            await bench.passes(0.1)

        assert stage.began_at == pytest.approx([0.0, 1.0, 2.0], abs=0.01)

    run(about())


def test_what_was_told_during_that_pause_is_not_forgotten() -> None:
    async def about() -> None:
        stage = Acting(RedisGone("gone"), LONG_S, topics=["mine"])
        bench = Bench(stage)
        await bench.passes(0.5)
        bench.told.tell("mine")

        await bench.passes(LONG_S / 2)

        assert stage.began_at[:2] == pytest.approx([0.0, AFTER_ERROR_S])

    run(about())


# -- wakeups ---


@pytest.mark.parametrize("topic", ["mine", "mine too", EVERYTHING])
def test_a_stage_is_woken_by_what_is_written_for_it(topic: str) -> None:
    async def about() -> None:
        stage = Acting(LONG_S, topics=["mine", "mine too"])
        bench = Bench(stage)
        await bench.passes(7.0)

        bench.told.tell(topic)
        await bench.passes(1.0)

        assert stage.began_at == [0.0, 7.0]

    run(about())


def test_a_stage_is_woken_by_nothing_else() -> None:
    async def about() -> None:
        stage, deaf = Acting(LONG_S, topics=["mine"]), Acting(LONG_S, name="deaf")
        bench = Bench(stage, deaf)
        await bench.passes(7.0)

        bench.told.tell("yours", "min", "mine too")
        await bench.passes(1.0)

        assert (stage.began_at, deaf.began_at) == ([0.0], [0.0])

    run(about())


def test_a_stage_that_was_begun_later_is_woken_too() -> None:
    async def about() -> None:
        bench, later = Bench(Acting(LONG_S)), Acting(LONG_S, name="later", topics=["mine"])
        await bench.passes(1.0)
        bench.runner.start([later], where="t")
        await bench.passes(1.0)

        bench.told.tell("mine")
        await bench.passes(1.0)

        assert later.began_at == [1.0, 2.0]

    run(about())


def test_many_wakes_while_it_sleeps_are_one_run() -> None:
    async def about() -> None:
        stage = Acting(LONG_S, topics=["mine"])
        bench = Bench(stage)
        await bench.passes(7.0)

        bench.told.tell(*["mine"] * 100)
        await bench.passes(1.0)

        assert stage.began_at == [0.0, 7.0]

    run(about())


def test_many_wakes_during_a_run_are_one_more_run() -> None:
    async def about() -> None:
        stage = Acting(LONG_S, topics=["mine"], takes_s=2.0)
        bench = Bench(stage)
        for _ in range(100):
            bench.told.tell("mine")
            await bench.passes(0.01)

        await bench.passes(10.0)

        assert stage.began_at == pytest.approx([0.0, 2.0])

    run(about())


def test_many_wakes_within_the_gap_are_one_run_after_it() -> None:
    async def about() -> None:
        stage = Acting(LONG_S, topics=["mine"], least_gap_s=1.0)
        bench = Bench(stage)
        for _ in range(90):
            bench.told.tell("mine")
            await bench.passes(0.01)

        await bench.passes(10.0)

        assert stage.began_at == pytest.approx([0.0, 1.0])

    run(about())


def test_a_lost_subscription_is_made_anew_and_everything_is_looked_at() -> None:
    async def about() -> None:
        stage = Acting(LONG_S, topics=["mine"])
        bench = Bench(stage)
        await bench.passes(7.0)

        with capture_logs() as logs:
            bench.told.tell(RedisGone("gone"), EVERYTHING)
            await bench.passes(5.0)

        assert bench.told.subscribed_at == pytest.approx([0.0, 7.0 + AFTER_ERROR_S])
        assert stage.began_at == pytest.approx([0.0, 7.0 + AFTER_ERROR_S])
        assert [line["event"] for line in logs] == ["redis.unavailable"]

    run(about())


# -- the end ---


def test_stop_lets_a_run_end_and_drains_it_then() -> None:
    async def about() -> None:
        stage = Acting(0.0, takes_s=3.0)
        bench = Bench(stage)
        await bench.passes(1.0)

        await bench.runner.stop([stage])
        ended_at = asyncio.get_running_loop().time()
        await bench.passes(10.0)

        assert (stage.began_at, stage.ended, stage.drained_at, ended_at) == ([0.0], 1, 3.0, 3.0)

    run(about())


@pytest.mark.parametrize("outcome", [LONG_S, CredentialsError("sign in")], ids=["sleeps", "pauses after an error"])
def test_stop_does_not_wait_for_a_stage_that_rests(outcome: float | Exception) -> None:
    async def about() -> None:
        stage = Acting(outcome)
        bench = Bench(stage)
        await bench.passes(1.0)

        await bench.runner.stop([stage])

        assert (stage.began_at, stage.drained_at) == ([0.0], 1.0)

    run(about())


def test_stop_ends_those_that_it_is_told_of_and_no_others() -> None:
    async def about() -> None:
        stage, other = Acting(1.0), Acting(1.0, name="other")
        bench = Bench(stage, other)
        await bench.passes(1.5)

        await bench.runner.stop([stage])
        await bench.passes(2.0)

        assert (len(stage.began_at), len(other.began_at)) == (2, 4)
        assert [health.name for health in bench.runner.health()] == ["other"]

    run(about())


def test_a_stop_that_is_cut_short_cancels_what_still_runs() -> None:
    async def about() -> None:
        stage = Acting(0.0, takes_s=LONG_S)
        bench = Bench(stage)
        await bench.passes(1.0)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.0):
                await bench.runner.stop([stage])
        await bench.passes(2 * LONG_S)

        assert (len(stage.began_at), stage.ended, stage.drained_at) == (1, 0, None)
        assert bench.runner.health() == ()

    run(about())


# -- health ---


def test_health_tells_of_the_last_success_and_error_and_of_all_runs() -> None:
    async def about() -> None:
        stage = Acting(2.0, Ec2Error("Blocked", "no"), 3.0, LONG_S, name="launch")
        bench = Bench(stage, where="t")
        await bench.passes(0.5)
        first = bench.health_of("launch t")
        await bench.passes(2.0)
        failed = bench.health_of("launch t")
        await bench.passes(1.0)
        again = bench.health_of("launch t")

        assert first == StageHealth(
            name="launch t", last_success_at=SINCE_1970, began_at=SINCE_1970, runs=1, pace_s=2.0
        )
        assert failed == StageHealth(
            name="launch t",
            last_success_at=SINCE_1970,
            last_error_at=SINCE_1970 + 2.0,
            last_error="Blocked: no",
            began_at=SINCE_1970 + 2.0,
            runs=2,
            pace_s=2.0,
        )
        assert (again.last_success_at, again.runs, again.pace_s) == (SINCE_1970 + 3.0, 3, 3.0)
        assert again.last_error_at == SINCE_1970 + 2.0

    run(about())


@pytest.mark.parametrize(
    ("error", "told"), [(RedisGone("redis://:secret@host"), "ConnectionError"), (KeyError("secret"), "KeyError")]
)
def test_health_tells_no_more_of_other_errors_than_their_kind(error: Exception, told: str) -> None:
    async def about() -> None:
        bench = Bench(Acting(error, name="intake"))
        await bench.passes(0.5)

        assert bench.health_of("intake").last_error == told

    run(about())


def test_a_stage_that_has_not_ended_a_run_has_no_success_yet() -> None:
    async def about() -> None:
        bench = Bench(Acting(1.0, name="intake", takes_s=5.0))
        await bench.passes(1.0)

        assert bench.health_of("intake") == StageHealth(name="intake", began_at=SINCE_1970, runs=1)

    run(about())


# -- stages that hang -----------------------------------------------------------------------------------------------


def test_a_stage_hangs_when_one_of_its_runs_takes_too_long() -> None:
    async def about() -> None:
        bench = Bench(Acting(1.0, name="quick"), Acting(1.0, name="slow", takes_s=100.0))
        await bench.passes(50.0)
        before = bench.runner.hanging(60.0)
        await bench.passes(20.0)
        during = bench.runner.hanging(60.0)
        await bench.passes(35.0)

        assert (before, during, bench.runner.hanging(60.0)) == ([], ["slow"], [])

    run(about())


@pytest.mark.parametrize("outcome", [LONG_S, RedisGone(""), Ec2Error("Blocked", "no"), KeyError()])
def test_a_stage_that_pauses_after_a_success_or_an_error_does_not_hang(outcome: float | Exception) -> None:
    async def about() -> None:
        bench = Bench(Acting(outcome, name="intake"))
        await bench.passes(5.5)

        assert bench.runner.hanging(0.0) == []

    run(about())


def test_a_stage_whose_task_has_ended_by_itself_hangs() -> None:
    async def about() -> None:
        stage = Acting(1.0, name="intake")
        bench = Bench(stage)
        await bench.passes(0.5)
        for running in bench.runner._running:
            assert running.task is not None
            await cancel_all([running.task])

        assert bench.runner.hanging(60.0) == ["intake"]

    run(about())
