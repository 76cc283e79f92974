"""botocore's sessions, as Puter uses them: they share what they have read of the SDK's own files."""

from __future__ import annotations

import functools
import os

from aiobotocore.session import AioSession, get_session
from botocore.loaders import Loader, create_loader

from puter_worker.ec2.parsing import ParserFactory


def core_of(profile: str | None) -> AioSession:
    """A session of an AWS profile (None: the default one), which reads this host's files when it is first used."""
    core = get_session()
    if profile is not None:
        core.set_config_variable("profile", profile)
    core.register_component("data_loader", _models())
    core.register_component("response_parser_factory", ParserFactory())
    return core


def preload() -> None:
    """Read what the first client needs from the SDK's files. It takes 0.1 s: call it before anybody waits."""
    for service in ("ec2", "sts"):
        for kind in ("service-2", "endpoint-rule-set-1"):
            _models().load_service_model(service, kind)
    for name in ("endpoints", "partitions", "sdk-default-configuration"):
        _models().load_data(name)


@functools.cache
def _models() -> Loader:
    """The loader of service models, which caches what it has read; all sessions share it.

    A session would make it with the settings of its profile, which may be wrong.
    """
    return create_loader(os.environ.get("AWS_DATA_PATH"))
