"""Pages of Describe calls: MaxResults and NextToken.

Rules: https://docs.aws.amazon.com/AWSEC2/latest/DeveloperGuide/ec2-api-pagination.html
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from tests.ec2sim.errors import Ec2Error, invalid_value
from tests.ec2sim.wire import Params

Row = TypeVar("Row")


class Page:
    """Which part of a list a call asks for.

    Attributes:
        after: position after which it begins; 0 is the list's beginning.
        limit: rows at most; None is all.
    """

    __slots__ = ("_digest", "after", "limit")

    def __init__(self, params: Params, *, low: int = 5, high: int = 1_000) -> None:
        """Reads MaxResults and NextToken.

        Raises:
            Ec2Error: a size outside `low` to `high`, or a token that was not given for this list.
        """
        self.limit = params.integer("MaxResults")
        if self.limit is not None and not low <= self.limit <= high:
            raise invalid_value("maxResults", self.limit, f"Expecting a value between {low} and {high}.")
        # A token belongs to the filters it was given for.
        asked = repr([(f.text("Name"), f.texts("Value")) for f in params.sections("Filter")])
        self._digest = hashlib.blake2s(asked.encode(), digest_size=6).hexdigest()
        token = params.text("NextToken")
        self.after = self._position(token) if token else 0

    def token(self, position: int) -> str:
        """The token of the page after a position."""
        return base64.urlsafe_b64encode(f"{self._digest}:{position}".encode()).decode()

    def cut(
        self, rows: Sequence[Row], position: Callable[[Row], int] | None = None
    ) -> tuple[Sequence[Row], str | None]:
        """The page of the whole list, and the next page's token if there is one.

        Args:
            rows: in the order of their positions.
            position: of a row, above 0; without it a row's place in the list counts.
        """
        if position is None:
            end = len(rows) if self.limit is None else self.after + self.limit
            return rows[self.after : end], self.token(end) if end < len(rows) else None
        rest = [row for row in rows if position(row) > self.after] if self.after else rows
        if self.limit is None or len(rest) <= self.limit:
            return rest, None
        page = rest[: self.limit]
        return page, self.token(position(page[-1]) if page else self.after)

    def _position(self, token: str) -> int:
        try:
            digest, _, position = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
            if digest == self._digest:
                return int(position)
        except (binascii.Error, ValueError):
            pass
        raise Ec2Error("InvalidParameterValue", "The NextToken was not given for this request")
