"""The verdict on a run of chaos objects to everything that must not be, and to nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest

from puter_client.contract.batch import BatchRow
from puter_client.contract.key import PuterKey
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.store import names as public
from puter_worker.ec2.tags import MANAGED, MEMBER, NAMESPACE, encode_manifest, own_tags
from puter_worker.store import names
from puter_worker.store.arq_adapter import QUEUE
from tests.agents import End
from tests.chaos.clients import Submission
from tests.chaos.finding import Finding
from tests.chaos.verdict import TARGET, for_good, judge, left_to_do
from tests.chaos.workloads import STAYS, Fate
from tests.ec2sim.ledger import Entry
from tests.ec2sim.reports import Seen

ONE, OTHER = KEYS = (PuterKey("ann", "one"), PuterKey("bob", "other"))
BATCH = "b-1"
LAUNCHED_AT = 1_800_000_000.0
DAY_S = 86_400
EXPIRES_AT = 1_900_000_000


class Redis:
    """As much of a client, and of a server behind it, as a verdict asks of."""

    def __init__(self) -> None:
        self.hashes: dict[str, dict[str, bytes]] = {}
        self.ttls: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self._answers: list[Any] = []

    def put(self, name: str, fields: dict[str, bytes], ttl_s: int = DAY_S) -> None:
        self.hashes[name] = fields
        self.ttls[name] = ttl_s

    def pipeline(self, *, transaction: bool) -> Redis:
        assert not transaction
        return self

    def __enter__(self) -> Redis:
        return self

    def __exit__(self, *_: object) -> None:
        self._answers = []

    def hget(self, name: str, field: str) -> None:
        self._answers.append(self.hashes.get(name, {}).get(field))

    def ttl(self, name: bytes) -> None:
        self._answers.append(self.ttls.get(name.decode(), -2))

    def execute(self) -> list[Any]:
        return self._answers

    def get(self, name: str) -> bytes | None:
        return self.hashes.get(name, {}).get("")

    def lrange(self, name: str, start: int, end: int) -> list[bytes]:
        assert (start, end) == (0, -1)
        return list(self.hashes.get(name, {}).values())

    def hgetall(self, name: str) -> dict[bytes, bytes]:
        return {field.encode(): value for field, value in self.hashes.get(name, {}).items()}

    def scan_iter(self, *, count: int) -> Iterator[bytes]:
        assert count > 0
        return iter([name.encode() for name in self.ttls])

    def size(self, name: str) -> int:
        return self.sizes.get(name, 0)

    llen = scard = zcard = size


def record_of(key: PuterKey, number: int) -> Record:
    return Record(
        namespace=key.namespace,
        tag=key.tag,
        phase=Phase.RUNNING,
        created_at=LAUNCHED_AT - 5,
        changed_at=LAUNCHED_AT + 1,
        account_id="123456789012",
        region="us-east-1",
        availability_zone="us-east-1a",
        vpc_id="vpc-1",
        instance_id=f"i-{number}",
        instance_type="t3.micro",
        ami_id="ami-1",
        public_dns_name=f"ec2-198-18-0-{number}.compute-1.amazonaws.com",
        public_ip=f"198.18.0.{number}",
        private_ip=f"172.31.0.{number}",
        launched_at=LAUNCHED_AT,
        labelled=True,
    )


def machine_of(key: PuterKey, number: int) -> Seen:
    tags = own_tags(key, 1) | {MANAGED: "true", NAMESPACE: key.namespace}
    return Seen(
        id=f"i-{number}",
        account="123456789012",
        region="us-east-1",
        zone="us-east-1a",
        vpc_id="vpc-1",
        subnet_id="subnet-1",
        state="running",
        state_reason=None,
        instance_type="t3.micro",
        image_id="ami-1",
        key_name=None,
        group_ids=("sg-1",),
        reservation_id=f"r-{number}",
        launch_index=0,
        client_token=f"token-{number}",
        tags=tags,
        shown_tags=tags,
        volume_tags={},
        launched_at=LAUNCHED_AT,
        ended_at=None,
        shutdown_behavior="terminate",
        spot=False,
        instance_profile=None,
        http_tokens="required",
        metadata_tags=False,
        root_gib=8,
        private_ip=f"172.31.0.{number}",
        public_ip=f"198.18.0.{number}",
        public_dns=f"ec2-198-18-0-{number}.compute-1.amazonaws.com",
    )


def call(action: str) -> Entry:
    return Entry(
        number=7,
        at=LAUNCHED_AT,
        account="123456789012",
        region="us-east-1",
        access_key="AKIACHAOS",
        action=action,
        digest="0" * 16,
        params={},
        effect=(),
        code="OK",
        status=200,
        answer="whole",
        request_id="req-1",
    )


class Outside:
    """All that a verdict is given: at first as it must be."""

    def __init__(self) -> None:
        self.fates: dict[PuterKey, Fate] = dict.fromkeys(KEYS, STAYS)
        self.ended: dict[str, End] = {}
        self.redis = Redis()
        self.machines = [machine_of(key, number) for number, key in enumerate(KEYS, 1)]
        self.ledger = [call("RunInstances"), call("CreateTags"), call("DescribeInstances")]
        for number, key in enumerate(KEYS, 1):
            self.write(key, record_of(key, number))
            self.answer(key, BatchRow(outcome=Outcome.CREATED, generation=1))

    def write(self, key: PuterKey, record: Record, ttl_s: int = DAY_S) -> None:
        self.redis.put(public.record(key), {"doc": msgspec.json.encode(record)}, ttl_s)

    def answer(self, key: PuterKey, row: BatchRow) -> None:
        self.redis.put(public.batch(key.namespace, BATCH), {key.tag: msgspec.json.encode(row)})

    def record_says(self, **changes: Any) -> None:
        self.write(ONE, record_of(ONE, 1).replace(**changes))

    def machine_is(self, **changes: Any) -> None:
        self.machines[0] = msgspec.structs.replace(self.machines[0], **changes)

    def verdict(self) -> Sequence[Finding]:
        submissions = [Submission(key.namespace, BATCH, (key.tag,)) for key in KEYS]
        return judge(
            self.redis,
            self.fates,
            submissions,
            self.machines,
            self.ledger,
            ended=self.ended,
            expires_at=EXPIRES_AT,
        )


def no_machine(it: Outside) -> None:
    del it.machines[0]


def two_machines(it: Outside) -> None:
    it.machines.append(machine_of(ONE, 3))


def a_second_machine_that_only_its_manifest_names(it: Outside) -> None:
    tags = {MANAGED: "true", NAMESPACE: "ann"} | encode_manifest([("one", 1)])
    it.machines.append(msgspec.structs.replace(machine_of(ONE, 3), tags=tags))


def an_ended_machine_beside_the_live_one(it: Outside) -> None:
    it.machines.append(msgspec.structs.replace(machine_of(ONE, 3), state="terminated"))


def a_machine_that_ended(it: Outside) -> None:
    it.machine_is(state="terminated")


def a_machine_launched_for_another(it: Outside) -> None:
    it.machine_is(tags=it.machines[0].tags | encode_manifest([("another", 1)]))


def a_spot_machine_that_is_told_to_be_another(it: Outside) -> None:
    it.machine_is(tags=it.machines[0].tags | {MEMBER: "1"} | encode_manifest([("one", 1), ("another", 1)]))


def a_spot_machine_of_anothers_place(it: Outside) -> None:
    it.machine_is(tags=it.machines[0].tags | {MEMBER: "0"} | encode_manifest([("another", 1), ("one", 1)]))


def a_machine_without_its_own_tags(it: Outside) -> None:
    it.machine_is(tags={MANAGED: "true", NAMESPACE: "ann"} | encode_manifest([("one", 1)]))


def no_record(it: Outside) -> None:
    it.redis.put(public.record(ONE), {})


def an_answer_that_was_never_given(it: Outside) -> None:
    it.redis.put(public.batch("ann", BATCH), {})


WRONG: dict[str, tuple[Callable[[Outside], None], str]] = {
    "no machine": (no_machine, "0 live instances"),
    "two machines": (two_machines, "2 live instances"),
    "two machines, one unlabelled": (a_second_machine_that_only_its_manifest_names, "2 live instances"),
    "an ended machine beside it": (an_ended_machine_beside_the_live_one, "generation 1 ran on 2 machines"),
    "an ended machine": (a_machine_that_ended, "0 live instances"),
    "another's user data": (a_machine_launched_for_another, "launched for ('another', 1)"),
    "a Spot machine that is told to be another": (a_spot_machine_that_is_told_to_be_another, "member 1, not 0"),
    "a Spot machine of another's place": (a_spot_machine_of_anothers_place, "launched for ('another', 1)"),
    "a machine without its own tags": (a_machine_without_its_own_tags, "tags of i-1 are"),
    "an unlabelled record": (lambda it: it.record_says(labelled=False), "i-1 is not labelled"),
    "no record": (no_record, "no record"),
    "a record that names nothing": (lambda it: it.record_says(instance_id=None), "names None, which EC2 does not have"),
    "a record that names an instance that is not there": (
        lambda it: it.record_says(instance_id="i-9"),
        "names i-9, which EC2 does not have",
    ),
    "a record that names another's instance": (lambda it: it.record_says(instance_id="i-2"), "tags of i-2 are"),
    "another phase": (lambda it: it.record_says(phase=Phase.PENDING), "says pending, EC2 running"),
    "another generation": (lambda it: it.record_says(generation=2), "tags of i-1 are"),
    "an open intent": (lambda it: it.record_says(intent="in-1"), "still names the intent in-1"),
    "another account": (lambda it: it.record_says(account_id="2"), "says account 2, EC2 123456789012"),
    "another region": (lambda it: it.record_says(region="mars-1"), "says region mars-1, EC2 us-east-1"),
    "another zone": (lambda it: it.record_says(availability_zone="x"), "says zone x, EC2 us-east-1a"),
    "another VPC": (lambda it: it.record_says(vpc_id="vpc-2"), "says VPC vpc-2, EC2 vpc-1"),
    "another type": (lambda it: it.record_says(instance_type="t3.large"), "says type t3.large, EC2 t3.micro"),
    "another image": (lambda it: it.record_says(ami_id="ami-2"), "says image ami-2, EC2 ami-1"),
    "another private address": (lambda it: it.record_says(private_ip="10.0.0.1"), "private address 10.0.0.1, EC2 172"),
    "no public address": (lambda it: it.record_says(public_ip=None), "public address None, EC2 198"),
    "no public name": (lambda it: it.record_says(public_dns_name=None), "public name None, EC2 ec2-198"),
    "another launch time": (lambda it: it.record_says(launched_at=LAUNCHED_AT + 1), "launch time 1800000001.0, EC2"),
    "an unanswered request": (an_answer_that_was_never_given, "batch b-1 answers nothing"),
    "a refused request": (
        lambda it: it.answer(ONE, BatchRow(outcome=Outcome.CONFLICT, generation=1)),
        "batch b-1 answers conflict",
    ),
    "an answer about another generation": (
        lambda it: it.answer(ONE, BatchRow(outcome=Outcome.CREATED, generation=2)),
        "batch b-1 speaks of generation 2",
    ),
}


def test_a_world_as_it_must_be_is_found_right() -> None:
    assert Outside().verdict() == []


@pytest.mark.parametrize(("break_it", "objection"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_key_is_found(break_it: Callable[[Outside], None], objection: str) -> None:
    it = Outside()
    break_it(it)
    findings = it.verdict()
    assert {finding.key for finding in findings} == {ONE}
    assert objection in "; ".join(finding.what for finding in findings)


def test_a_machine_that_nobody_requested_is_found() -> None:
    it = Outside()
    it.machines.append(machine_of(PuterKey("ann", "stranger"), 3))
    assert ["nobody requested" in finding.what for finding in it.verdict()] == [True]


def test_a_machine_without_any_tags_is_found() -> None:
    it = Outside()
    it.machines.append(msgspec.structs.replace(machine_of(ONE, 3), tags={}))
    assert ["nobody requested" in finding.what for finding in it.verdict()] == [True]


@pytest.mark.parametrize("action", ["TerminateInstances", "DeleteKeyPair", "DeleteTags", "RevokeSecurityGroupIngress"])
def test_a_call_that_takes_something_away_is_found(action: str) -> None:
    it = Outside()
    it.ledger.append(call(action))
    assert [finding.what for finding in it.verdict()] == [f"Puter requested {action} (call 7)"]


def test_a_key_without_ttl_is_found() -> None:
    it = Outside()
    it.write(ONE, record_of(ONE, 1), ttl_s=-1)
    assert [finding.what for finding in it.verdict()] == [f"{public.record(ONE).encode()!r} has no TTL"]


def test_what_is_to_be_done_may_stay_for_good() -> None:
    redis = Redis()
    for name in (public.inbox("ann"), public.READY, names.BACKLOGS, QUEUE):
        redis.put(name, {}, ttl_s=-1)
    assert for_good(redis) == []


def test_of_many_keys_those_without_ttl_are_found() -> None:
    redis = Redis()
    for number in range(2_500):
        redis.put(f"puter:ann:record:{number}", {}, ttl_s=-1 if number in {3, 1_003, 2_499} else DAY_S)
    assert for_good(redis) == [f"puter:ann:record:{number}".encode() for number in (3, 1_003, 2_499)]


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({}, []),
        ({"phase": Phase.PENDING, "reason": "why"}, ["1 pending (why), result None"]),
        ({"labelled": False}, ["1 without labels"]),
    ],
)
def test_a_run_is_over_when_every_record_is_as_requested(changes: dict[str, Any], left: list[str]) -> None:
    it = Outside()
    it.record_says(**changes)
    assert left_to_do(it.redis, it.fates) == left


@pytest.mark.parametrize(
    "name",
    [
        *(public.inbox("ann"), public.READY, names.backlog("bob"), names.BACKLOGS, QUEUE, names.MOVING, names.PARKED),
        *(
            names.INGRESS,
            names.in_phase(Phase.RESOLVING),
            names.in_phase(Phase.LAUNCHING),
            names.due("intents", TARGET),
            names.due("labels", TARGET),
            names.due("orders", TARGET),
            names.due("results", TARGET),
            names.look_ups(TARGET, "ann"),
            names.launch_queue(TARGET, "ann"),
        ),
    ],
)
def test_a_run_is_not_over_while_something_is_to_be_done(name: str) -> None:
    it = Outside()
    it.redis.sizes[name] = 2
    assert left_to_do(it.redis, it.fates) == [f"2 {name}"]
