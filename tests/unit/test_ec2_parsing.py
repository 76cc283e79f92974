"""How EC2's answers are parsed: large ones in a thread, all of them as botocore would."""

from __future__ import annotations

import threading
from datetime import datetime
from typing import Any

import pytest
from botocore.loaders import create_loader
from botocore.model import ServiceModel

from puter_worker.ec2.parsing import LARGE_BYTES, ParserFactory, parse_time

SHAPE = ServiceModel(create_loader().load_service_model("ec2", "service-2"), "ec2").operation_model("DescribeInstances")
ONE = "<item><instanceId>i-%d</instanceId><launchTime>2026-11-27T10:00:00.000Z</launchTime></item>"


def answer(count: int) -> dict[str, Any]:
    instances = "".join(ONE % number for number in range(count))
    body = f"<R><reservationSet><item><instancesSet>{instances}</instancesSet></item></reservationSet></R>"
    return {"status_code": 200, "headers": {}, "body": body.encode()}


@pytest.mark.parametrize("count", [1, 2_000])
async def test_a_large_answer_is_parsed_in_another_thread(count: int) -> None:
    threads: set[int] = set()

    def read(value: Any) -> datetime:
        threads.add(threading.get_ident())
        return parse_time(value)

    factory, raw = ParserFactory(), answer(count)
    factory.set_parser_defaults(timestamp_parser=read)
    parsed = await factory.create_parser("ec2").parse(raw, SHAPE.output_shape)

    assert len(parsed["Reservations"][0]["Instances"]) == count
    assert (threads == {threading.get_ident()}) is (len(raw["body"]) < LARGE_BYTES)


def test_other_services_answers_are_parsed_as_botocore_does() -> None:
    assert type(ParserFactory().create_parser("query")).__name__ == "AioQueryParser"
