"""From the options of `up` and `submit` to specs: defaults, files, this machine's address and its key."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from puter_client.address import CHOICES, AddressUnknown, is_everybody, own_cidr
from puter_client.config import ClientSettings
from puter_client.contract.declaration import Declared, Form, declared, fixed, inputs
from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import shown
from puter_client.contract.os_image import Os
from puter_client.contract.spec import Spec
from puter_client.sshkeys import ClientKey, client_key

OPEN_TO_ALL = "warning: ssh is open to every address ({cidr}): anybody may try to log in"
AL2_ENDED = "note: Amazon Linux 2 is without support since 2026-06-30; --os al2023 is its successor"


def given_fields(options: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """The fields that options name; `public_key` stays the path of a file.

    Raises:
        InvalidInput: a variable or tag has no value, or the file of the user data cannot be read.
    """
    known = inputs(Spec)
    fields = {name: value for name, value in options.items() if value not in (None, ())}
    for name, value in fields.items():
        option, long = known[name].option, known[name].option_name
        match option.form if option else Form.TEXT:
            case Form.VARIABLES:
                fields[name] = _once(long, [_variable(long, text, environ) for text in value])
            case Form.PAIRS:
                fields[name] = _once(long, [_pair(long, text) for text in value])
            case Form.WORDS:
                fields[name] = [word for text in value for word in text.replace(",", " ").split()]
            case Form.FILE:
                fields[name] = _content(long, value)
            case Form.TEXT | Form.FLAG | Form.SWITCH:
                pass
    return fields


def given_names(spec: Spec, given: Container[str]) -> tuple[str, ...]:
    """Of the fields that may differ for one machine, those that the user gave; `given`: the names that were written."""

    def is_given(item: Declared) -> bool:
        none = item.field.none
        by_flag = none is not None and none.name in given and getattr(spec, item.attribute) is None
        return item.name in given or by_flag

    return tuple(item.name for item in fixed(Spec) if is_given(item))


def _once(option: str, pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Names with their values; a name with two values is refused, for one of them would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInput(f"{option} {shown(twice)}: duplicate name; keep one")
    return found


def _variable(option: str, text: str, environ: Mapping[str, str]) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if equals:
        return name, value
    if name not in environ:
        raise InvalidInput(f"{option} {shown(name)}: is not set here; write {name}=VALUE, or set it")
    return name, environ[name]


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidInput(f"{option} {shown(name)}: write it as KEY=VALUE")
    return name, value


def _content(option: str, path: str) -> str:
    from puter_client.batch.source import STDIN, beside, user_data_text

    try:
        return user_data_text(beside(STDIN), path)  # relative to the working folder
    except InvalidInput as error:
        raise InvalidInput(f"{option} {error}") from None


class SshSources:
    """The CIDRs that may use ssh where `auto` is written, or nothing: this machine's address, looked up once.

    Attributes:
        unknown: why the address is not known, if it was needed though `auto` was not written.
        skipped: whether the address would have been looked up, had it been allowed.
    """

    def __init__(self, environ: Mapping[str, str], *, look_up: bool = True) -> None:
        self._environ = environ
        self._look_up = look_up
        self._own: str | AddressUnknown | None = None
        self.unknown: AddressUnknown | None = None
        self.skipped = False

    def __call__(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """The CIDRs of an ssh_from with `auto` in it; () means that no ssh_from is written.

        Raises:
            AddressUnknown: `auto` is written, and the address is not known.
        """
        cidrs = tuple(word for word in words if word != "auto")
        if not self._look_up:
            self.skipped = True
            return cidrs
        if self._own is None:
            try:
                self._own = own_cidr(self._environ)
            except AddressUnknown as error:
                self._own = error
        if isinstance(self._own, AddressUnknown):
            if words:
                raise self._own
            self.unknown = self._own
            return ()
        return tuple(sorted({self._own, *cidrs}))


def one_spec(settings: ClientSettings, options: Mapping[str, Any], sources: SshSources) -> Spec:
    """The spec of `up`, but for its key.

    Raises:
        InvalidInput: with every option that cannot be used, or the address for `auto` is not known.
    """
    from puter_client.batch import single

    fields = {name: value for name, value in options.items() if name != "public_key"}
    spec = single(fields, config=settings.defaults, resolve_ssh_from=sources)
    if sources.unknown is not None:
        raise sources.unknown
    return spec


class PublicKeyFile(NamedTuple):
    """The file of the user's own public key, and the option or setting that names it."""

    path: str
    named_by: str


class Keys:
    """The key for each key name in the specs, found or made once."""

    def __init__(self, settings: ClientSettings, public_key_file: PublicKeyFile | None) -> None:
        self._settings = settings
        self._file = public_key_file
        self._known: dict[str | None, ClientKey] = {}

    def into(self, spec: Spec) -> Spec:
        """The spec with its key.

        Raises:
            InvalidInput: there is no usable key.
            EngineError: the state folder cannot hold keys safely.
        """
        if spec.key_name not in self._known:
            if self._file is None:
                self._settings.paths.secure_state()
            self._known[spec.key_name] = client_key(
                self._settings.paths.private_keys,
                key_name=spec.key_name,
                public_key_file=self._file and self._file.path,
                named_by=self._file.named_by if self._file else "",
                local_engine=self._settings.redis_url is None,
            )
        key = self._known[spec.key_name]
        return msgspec.structs.replace(spec, public_key=key.public_key, private_key_path=key.private_key_path)


def public_key_file(settings: ClientSettings, options: Mapping[str, Any]) -> PublicKeyFile | None:
    """The file of the user's own public key: as the option names it, else the settings file."""
    if path := options.get("public_key"):
        return PublicKeyFile(path, inputs(Spec)["public_key"].option_name)
    path = settings.defaults.get("public_key")
    return PublicKeyFile(path, settings.default("public_key")) if path else None


def warn_of(specs: Sequence[Spec], say: Callable[[str], None]) -> None:
    """Warn, once each, of what is allowed but may not be intended."""
    for cidr in sorted({cidr for spec in specs for cidr in spec.ssh_from if is_everybody(cidr)}):
        say(OPEN_TO_ALL.format(cidr=cidr))
    if any(spec.os is Os.AL2 and spec.ami is None for spec in specs):
        say(AL2_ENDED)


def without_a_rule(specs: Sequence[Spec], unknown: AddressUnknown) -> str:
    """The warning of a batch that goes on though this machine's address is not known.

    Raises:
        AddressUnknown: some machine has no workload, and so is of use by ssh only.
    """
    if not all(spec.run or spec.ssh_from for spec in specs):
        raise unknown
    why = str(unknown).partition(": ")[0]
    return f"warning: {why}, so no address is added for ssh; {CHOICES}"


def described(tag: str, namespace: str, spec: Spec) -> dict[str, Any]:
    """What would be requested, for people and programs; values of variables stay hidden."""
    fields: dict[str, Any] = {"namespace": namespace, "tag": tag}
    for item in declared(type(spec)):
        for name in item.attributes:
            value = getattr(spec, name)
            if value not in (None, (), {}, False):
                fields[name] = _hidden(value) if item.field.secret else msgspec.to_builtins(value)
    fields["ttl_s"] = spec.ttl_s
    return fields


def _hidden(value: Any) -> Any:
    return sorted(value) if isinstance(value, dict) else f"{len(str(value).encode()):,} bytes"
