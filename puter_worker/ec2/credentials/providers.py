"""botocore's chain of credential providers, with two replaced: here, none may ask a person, or outlive its time."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NoReturn

from aiobotocore.credentials import (
    AioAssumeRoleProvider,
    AioCanonicalNameCredentialSourcer,
    AioContainerProvider,
    AioEnvProvider,
    AioProfileProviderBuilder,
    create_credential_resolver,
)
from aiobotocore.utils import create_nested_client

from puter_worker.ec2.credentials.process import CredentialProcess
from puter_worker.ec2.credentials.unresolved import no_mfa_code
from puter_worker.timings import Timings

if TYPE_CHECKING:
    from aiobotocore.session import AioSession


class _ProfileProviders(AioProfileProviderBuilder):
    """Makes the providers of a profile, also of one that is the source of a role."""

    def __init__(self, core: AioSession, *, region: str, timings: Timings) -> None:
        super().__init__(core, cache={}, region_name=region)
        self._core = core
        self._timings = timings

    def _create_process_provider(self, profile_name: str) -> CredentialProcess:
        return CredentialProcess(profile_name, lambda: self._core.full_config, self._timings)


def providers_of(core: AioSession, *, profile: str | None, region: str, timings: Timings) -> list[Any]:
    """The providers in botocore's order; the first that has credentials counts.

    Args:
        core: a session of the profile.
        profile: the AWS profile as messages name it.
        region: where STS is asked for a role.
        timings: the worker's.
    """
    resolver = create_credential_resolver(core, region_name=region)
    name = core.get_config_variable("profile") or "default"

    def no_code(_prompt: str) -> NoReturn:
        raise no_mfa_code(profile)

    sts: Any = functools.partial(create_nested_client, core, region_name=region)
    sources = [AioEnvProvider(), AioContainerProvider(), resolver.get_provider("iam-role")]
    replaced = {
        "assume-role": AioAssumeRoleProvider(
            load_config=lambda: core.full_config,
            client_creator=sts,
            cache={},
            profile_name=name,
            prompter=no_code,
            credential_sourcer=AioCanonicalNameCredentialSourcer(sources),
            profile_provider_builder=_ProfileProviders(core, region=region, timings=timings),
        ),
        "custom-process": CredentialProcess(name, lambda: core.full_config, timings),
    }
    return [replaced.get(str(provider.METHOD), provider) for provider in resolver.providers]
