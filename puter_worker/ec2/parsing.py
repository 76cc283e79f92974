"""How EC2's answers are parsed: large ones beside the event loop, and timestamps fast."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime
from typing import Any

from aiobotocore.parsers import AioEC2QueryParser, AioResponseParserFactory
from botocore.utils import parse_timestamp

LARGE_BYTES = 65_536
"""Some 15 instances of a DescribeInstances answer, which take 3 ms; a page of 1,000 takes 0.2 s."""


class ParserFactory(AioResponseParserFactory):
    """Makes botocore's parsers, for EC2 the one below. A parser is made for each answer, so threads share none."""

    def __init__(self) -> None:
        super().__init__()
        self.set_parser_defaults(timestamp_parser=parse_time)

    def create_parser(self, protocol_name: str) -> Any:
        """The parser of one answer."""
        if protocol_name != "ec2":
            return super().create_parser(protocol_name)
        return _Ec2Parser(**self._defaults)  # type: ignore[attr-defined] # its stubs lack it


class _Ec2Parser(AioEC2QueryParser):
    """Parses a large answer in a thread: everything else that the worker does would wait for it."""

    def _do_parse(self, response: Any, shape: Any) -> Any:
        parse = super()._do_parse  # type: ignore[misc] # its stubs lack it
        if len(response["body"]) < LARGE_BYTES:
            return parse(response, shape)
        return asyncio.to_thread(parse, response, shape)  # aiobotocore awaits what can be awaited


def parse_time(value: Any) -> datetime:
    """Parses a timestamp as botocore does, but 100 times as fast for the format that EC2 uses."""
    if isinstance(value, str) and "T" in value:
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(value)
    read: datetime = parse_timestamp(value)
    return read
