"""A profile's `credential_process`: a program of the operator's that prints credentials.

The format of its output: https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from aiobotocore.credentials import AioProcessProvider
from botocore.compat import compat_shell_split
from botocore.utils import parse_timestamp

from puter_client.contract.key import shown
from puter_worker.ec2.credentials.unresolved import last_words
from puter_worker.errors import CredentialsError
from puter_worker.timings import Timings

_MAX_BYTES = 65_536  # credentials take about 2 KB


class _Output(msgspec.Struct, rename="pascal"):
    version: int
    access_key_id: str
    secret_access_key: str
    session_token: str | None = None
    expiration: str | None = None


class CredentialProcess(AioProcessProvider):
    """botocore's provider, whose program cannot ask anybody, and ends with all its children when time is up.

    Nothing of the program's standard output is ever shown: it holds keys.
    """

    def __init__(self, profile_name: str, load_config: Callable[[], Any], timings: Timings) -> None:
        super().__init__(profile_name, load_config)
        self._name = profile_name
        self._timings = timings

    async def _retrieve_credentials_using(self, credential_process: str) -> dict[str, str | None]:
        """Called by botocore for the first credentials and for each refresh.

        Raises:
            CredentialsError: the program failed, or its output cannot be used.
        """
        try:
            words = compat_shell_split(credential_process)
        except AttributeError:  # botocore takes indented lines for settings of their own
            raise self._failed("is not one line") from None
        except ValueError as error:
            raise self._failed(f"cannot be read as a command ({error})") from None
        if not words:
            raise self._failed("is empty")
        try:
            code, output, told = await _run(words, ends_within_s=self._timings.process_ends_s)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the command
            why = error.strerror if isinstance(error, OSError) else "it contains a NUL character"
            raise self._failed(f"cannot be started: {shown(words[0], 200)}: {why}") from None
        if code != 0:
            how = f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"
            raise self._failed(f"{how}: {last_words(told.decode(errors='replace')) or 'it wrote no reason'}")
        return self._read(output)

    def _read(self, output: bytes) -> dict[str, str | None]:
        if len(output) > _MAX_BYTES:
            raise self._failed(f"printed over {_MAX_BYTES:,} bytes")
        try:
            read = msgspec.json.decode(output, type=_Output)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # msgspec names places and types, never values.
            why = str(error) if isinstance(error, msgspec.DecodeError) else "it is not valid UTF-8"
            raise self._failed(f"did not print credentials as a JSON object: {why}") from None
        if read.version != 1:
            raise self._failed("printed a version of the format that is not 1")
        if read.expiration is not None and not _is_time(read.expiration):
            raise self._failed("printed an Expiration that is not an ISO 8601 time with a time zone")
        return {
            "access_key": read.access_key_id,
            "secret_key": read.secret_access_key,
            "token": read.session_token,
            "expiry_time": read.expiration,
            "account_id": None,  # STS is asked for it
        }

    def _failed(self, how: str) -> CredentialsError:
        return CredentialsError(
            f"credential_process of AWS profile {shown(self._name)} {how}; correct it in the AWS config of "
            "the worker's host, or what it needs there; Puter then continues by itself"
        )


def _is_time(text: str) -> bool:
    try:
        return parse_timestamp(text).tzinfo is not None
    except (ValueError, OverflowError):
        return False


async def _run(command: Sequence[str], *, ends_within_s: float) -> tuple[int, bytes, bytes]:
    """Exit code, standard output and standard error of a program, both cut soon after `_MAX_BYTES`.

    If this is cancelled, the program's whole process group is ended.
    """
    starting = asyncio.create_task(
        asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # A session of its own: a group that can be ended, and no terminal on which it could ask.
            start_new_session=True,
            # Puter's own settings are not its business: they contain Redis's password.
            env={name: value for name, value in os.environ.items() if not name.startswith("PUTER_")},
        )
    )
    try:
        # If asyncio is interrupted while it starts a program, it ends the program, but not its children.
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:
        with suppress(OSError, ValueError):
            await _end_group(await starting, ends_within_s)
        raise
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        output, told = await asyncio.gather(_read_all(process.stdout), _read_all(process.stderr))
        return await process.wait(), output, told
    except asyncio.CancelledError:
        await _end_group(process, ends_within_s)
        raise


async def _read_all(stream: asyncio.StreamReader) -> bytes:
    """What a stream holds until its end; what comes after about `_MAX_BYTES` is dropped."""
    kept = b""
    while chunk := await stream.read(_MAX_BYTES):
        if len(kept) <= _MAX_BYTES:
            kept += chunk
    return kept


async def _end_group(process: asyncio.subprocess.Process, within_s: float) -> None:
    try:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
