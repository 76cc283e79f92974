"""Why a puter waits after an error of EC2's, in plain words. Pure."""

from __future__ import annotations

from puter_worker.ec2.errors import Ec2Error, Handling, ProfileMissing


def is_final(error: Ec2Error) -> bool:
    """Whether repeating cannot help, so that the puter fails."""
    return error.handling is Handling.FAIL or isinstance(error, ProfileMissing)


def reason_after(error: Ec2Error) -> str:
    """What a puter waits for after an error that does not fail it, and what its owner can do."""
    match error.handling:
        case Handling.CREDENTIALS:
            return f"waiting for AWS credentials ({error.code}): {error.message}"
        case Handling.QUOTA:
            return f"waiting for the account's quota ({error.code}): {error.message}"
        case Handling.OTHER_ZONE:
            return f"no capacity ({error.code}): {error.message}"
        case Handling.THROTTLED:
            return f"EC2 refuses calls as too many ({error.code}); asking more slowly"
        case _ if error.doubtful:
            return f"EC2's answer is unknown ({error.code}); looking whether the machine is there"
        case _:
            return f"EC2 answers {error.code}; trying again"
