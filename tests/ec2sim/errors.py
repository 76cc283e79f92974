"""EC2's errors: a code, a sentence, and the HTTP status that EC2 sends with the code."""

from __future__ import annotations

# Codes of another status than 400. InsufficientInstanceCapacity being a 500 is EC2's own.
STATUS = {
    "AuthFailure": 401,
    "Blocked": 403,
    "DryRunOperation": 412,
    "ExpiredToken": 403,
    "InsufficientInstanceCapacity": 500,
    "InternalError": 500,
    "InternalFailure": 500,
    "OptInRequired": 401,
    "RequestLimitExceeded": 503,
    "ServiceUnavailable": 503,
    "Throttling": 503,
    "ThrottlingException": 503,
    "Unavailable": 503,
    "UnauthorizedOperation": 403,
}

MESSAGE = {
    "ExpiredToken": "The security token included in the request is expired",
    "InsufficientInstanceCapacity": "We currently do not have sufficient capacity in the Availability Zone.",
    "InternalError": "An internal error has occurred",
    "InternalFailure": "The request processing has failed because of an unknown error",
    "PendingVerification": "Your request for accessing resources in this region is being validated.",
    "RequestExpired": "Request has expired.",
    "RequestLimitExceeded": "Request limit exceeded.",
    "ServiceUnavailable": "The request has failed due to a temporary failure of the server.",
    "UnauthorizedOperation": "You are not authorized to perform this operation.",
    "Unavailable": "The server is overloaded and can't handle the request.",
}


class Ec2Error(Exception):
    """A refusal as EC2 words it.

    Attributes:
        code: EC2's name of it.
        message: for people.
        status: of the HTTP answer.
    """

    def __init__(self, code: str, message: str | None = None, status: int | None = None) -> None:
        self.code = code
        self.message = message or MESSAGE.get(code, code)
        self.status = status or STATUS.get(code, 400)
        super().__init__(f"{code}: {self.message}")


def invalid_value(name: str, value: object, why: str) -> Ec2Error:
    """InvalidParameterValue in EC2's usual sentence."""
    return Ec2Error("InvalidParameterValue", f"Value ({value}) for parameter {name} is invalid. {why}")


def missing(name: str) -> Ec2Error:
    """MissingParameter in EC2's usual sentence."""
    return Ec2Error("MissingParameter", f"The request must contain the parameter {name}")
