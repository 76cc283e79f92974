"""Any interleaving of stages, crashes, pauses, lost answers: never two live machines a key, and in the end one.

What runs is the stages themselves, with the stores' scripts on a real Valkey, against a small EC2; only which
call goes through when, and what becomes of it, is chosen by Hypothesis. PUTER_CHAOS=long tries many more.
"""

from __future__ import annotations

import os
from typing import Any

import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.model.steps import Fate
from tests.model.world import HOSTS, KEYS, World

LONG = os.environ.get("PUTER_CHAOS") == "long"


def tries(examples: int, steps: int) -> settings:
    """The number of examples and steps; fixed examples by default, many more and random ones in the long form."""
    return settings(
        max_examples=int(os.environ.get("PUTER_MODEL_EXAMPLES", "0")) or (50 * examples if LONG else examples),
        stateful_step_count=steps,
        deadline=None,
        derandomize=not LONG,
        database=None,
        suppress_health_check=list(HealthCheck),
        # An example that does not heal takes a second, so shrinking one takes minutes.
        phases=[Phase.generate, Phase.shrink] if os.environ.get("PUTER_MODEL_SHRINK") else [Phase.generate],
    )


hosts = st.sampled_from(HOSTS)
keys = st.sampled_from(KEYS)


class Worked(RuleBasedStateMachine):
    """The world of all examples, and what must hold in it."""

    server: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.server)
        # Keys whose request may end without a machine: cancelled, refused for good, or ended by itself.
        self.excused = False

    def teardown(self) -> None:
        try:
            self._all_is_as_requested_in_the_end()
        finally:
            self.world.close()

    @invariant()
    def no_key_has_two_live_machines(self) -> None:
        for key in KEYS:
            live = self.world.cloud.live(key)
            assert len(live) <= 1, f"{key} has {[(machine.id, machine.token) for machine in live]}"

    def _all_is_as_requested_in_the_end(self) -> None:
        world = self.world
        requested = [key for key in KEYS if world.record(key)]
        if self.excused:
            assert world.heal(world.is_settled), "a request is under way for ever"
            self.no_key_has_two_live_machines()
            # A record may be half a minute old; a request after that sees the present state.
            world.let_pass(31.0)
            world.request(*KEYS)
            requested = list(KEYS)
        granted = world.heal(lambda: all(world.is_granted(key) for key in requested))
        self.no_key_has_two_live_machines()
        assert granted, [(world.record(key), world.cloud.live(key)) for key in requested if not world.is_granted(key)]


class Stages(Worked):
    """Two workers, three keys, and every fault, on the whole way of a request."""

    forgetful = False

    @rule(which=st.sets(keys, min_size=1))
    def request(self, which: set[Any]) -> None:
        self.world.request(*sorted(which))

    @rule(key=keys)
    def cancel(self, key: Any) -> None:
        self.excused = True
        self.world.cancel(key)

    @rule(host=hosts, most=st.integers(0, 40), fate=st.sampled_from(Fate))
    def work(self, host: str, most: int, fate: Fate) -> None:
        call = self.world.work(host, most)
        if call is not None:
            self.world.steps.let(call, fate)

    @rule(host=hosts, most=st.integers(0, 40))
    def work_and_pause(self, host: str, most: int) -> None:
        self.world.work(host, most)

    @rule(host=hosts, delivered=st.booleans())
    def crash(self, host: str, delivered: bool) -> None:
        self.world.crash(host, delivered=delivered)

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0, 31.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.let_pass(seconds)

    @rule(lag_s=st.sampled_from([0.0, 2.0]), flaps=st.booleans(), dead=st.booleans())
    def weather(self, lag_s: float, flaps: bool, dead: bool) -> None:
        weather = self.world.cloud.weather
        weather.lag_s, weather.flaps, weather.dead_come_back = lag_s, flaps, dead

    @rule(room=st.sampled_from([None, 0, 1, 2]))
    def capacity(self, room: int | None) -> None:
        self.world.cloud.weather.room = room

    @rule(permitted=st.booleans())
    def permission(self, permitted: bool) -> None:
        self.excused = self.excused or not permitted
        self.world.cloud.weather.permitted = permitted

    @rule(calls_now=st.sampled_from([1, 9]))
    def budget(self, calls_now: int) -> None:
        self.world.calls_now = calls_now

    @rule(key=keys)
    def machine_ends(self, key: Any) -> None:
        for machine in self.world.cloud.live(key):
            machine.live = False
            self.excused = True

    @precondition(lambda self: self.forgetful)
    @rule()
    def redis_forgets(self) -> None:
        self.excused = True
        self.world.lose_redis()


class Launches(Worked):
    """The part of the way on which a machine could be launched twice, call by call.

    Keys are in the launch queue. One worker has begun to launch them and stands still, perhaps past its leases; it goes
    on, or dies, while another one takes up what it left.
    """

    @initialize(
        which=st.sets(keys, min_size=1, max_size=2),
        calls_now=st.sampled_from([1, 9]),
        lag_s=st.sampled_from([0.0, 20.0]),
        room=st.sampled_from([None, 0, 1]),
        at=st.sampled_from(["opened", "sending", "sent", "told"]),
        seconds=st.sampled_from([0.5, 11.0, 31.0]),
    )
    def a_worker_stands_still(
        self, which: set[Any], calls_now: int, lag_s: float, room: int | None, at: str, seconds: float
    ) -> None:
        world = self.world
        world.request(*sorted(which))
        world.only = frozenset({"intake", "ensure", "resolve"})
        while world.work(HOSTS[0], 100) is not None:
            pass
        world.only = frozenset({"launch", "replay"})
        world.calls_now, world.cloud.weather.lag_s, world.cloud.weather.room = calls_now, lag_s, room
        world.stand_still(HOSTS[0], at)
        world.let_pass(seconds)

    @rule(host=hosts, fate=st.sampled_from([Fate.WHOLE, *Fate]))
    def step(self, host: str, fate: Fate) -> None:
        call = self.world.work(host, 0)
        if call is not None:
            self.world.steps.let(call, fate)

    @rule(host=hosts, most=st.integers(1, 25))
    def steps(self, host: str, most: int) -> None:
        self.world.work(host, most)

    @rule(host=hosts, at=st.sampled_from(["opened", "sending", "sent", "told"]))
    def stand_still(self, host: str, at: str) -> None:
        self.world.stand_still(host, at)

    @rule(seconds=st.sampled_from([2.5, 11.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.let_pass(seconds)

    @rule(room=st.sampled_from([None, 0]))
    def capacity(self, room: int | None) -> None:
        self.world.cloud.weather.room = room

    @rule(host=hosts, delivered=st.booleans())
    def crash(self, host: str, delivered: bool) -> None:
        self.world.crash(host, delivered=delivered)


def test_no_interleaving_of_stages_launches_a_key_twice_or_loses_it(server: redis.Redis) -> None:
    run_state_machine_as_test(type("Here", (Stages,), {"server": server}), settings=tries(100, 30))


def test_no_interleaving_of_launches_launches_a_key_twice_or_loses_it(server: redis.Redis) -> None:
    run_state_machine_as_test(type("Here", (Launches,), {"server": server}), settings=tries(100, 30))


def test_not_even_a_redis_that_comes_back_empty_launches_a_key_twice(server: redis.Redis) -> None:
    machine = type("Here", (Stages,), {"server": server, "forgetful": True})
    run_state_machine_as_test(machine, settings=tries(100, 30))
