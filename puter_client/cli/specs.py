"""From the options of `up` and `submit` to specs: defaults, files, this machine's address and its key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from puter_client.address import CHOICES, AddressUnknown, is_everybody, own_cidr
from puter_client.config import ClientSettings, laid_over
from puter_client.contract.errors import InvalidInput
from puter_client.contract.fields import InvalidSpec, build_spec
from puter_client.contract.key import shown
from puter_client.contract.phase import Os
from puter_client.contract.spec import Spec
from puter_client.sshkeys import ClientKey, client_key

_SEVERAL = frozenset({"instance_type", "subnet", "ssh_from"})
_OPTION_NAMES = {"aws_tags": "aws-tag"}
OPEN_TO_ALL = "warning: ssh is open to every address there is ({cidr}): anybody may try to log in"
AL2_ENDED = "note: Amazon Linux 2 is without support since 2026-06-30; --os al2023 is its successor"


def option_name(field: str) -> str:
    """A field as its option is called."""
    return "--" + _OPTION_NAMES.get(field, field.replace("_", "-"))


def given_fields(options: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """The fields that options name; `public_key` stays the path of a file.

    Raises:
        InvalidInput: a variable or tag has no value, or the user data's file cannot be read.
    """
    fields = {name: value for name, value in options.items() if value not in (None, ())}
    if "env" in fields:
        fields["env"] = _once("--env", [_variable(text, environ) for text in fields["env"]])
    if "aws_tags" in fields:
        fields["aws_tags"] = _once("--aws-tag", [_tag(text) for text in fields["aws_tags"]])
    for name in _SEVERAL & fields.keys():
        fields[name] = [word for text in fields[name] for word in text.replace(",", " ").split()]
    if "user_data" in fields:
        fields["user_data"] = _user_data(fields["user_data"])
    return fields


def _once(option: str, pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Names with their values; of two values one would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInput(f"{option} {shown(twice)}: is given twice; keep one")
    return found


def _variable(text: str, environ: Mapping[str, str]) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if equals:
        return name, value
    if name not in environ:
        raise InvalidInput(f"--env {shown(name)}: is not set here; write {name}=VALUE, or set it")
    return name, environ[name]


def _tag(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidInput(f"--aws-tag {shown(name)}: write it as KEY=VALUE")
    return name, value


def _user_data(path: str) -> str:
    from puter_client.batch.source import STDIN, beside

    try:
        return beside(STDIN)(path).decode()  # relative to the working folder
    except InvalidInput as error:
        raise InvalidInput(f"--user-data {error}") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"--user-data {shown(path, 300)}: is not UTF-8 text; write the script as UTF-8") from None


class SshSources:
    """Who may use ssh where nobody wrote it, or wrote `auto`: this machine, looked up once.

    Attributes:
        unknown: why the address is not known, once that came out for an `auto` that nobody wrote.
        skipped: whether the address would have been looked up, had it been allowed.
    """

    def __init__(self, environ: Mapping[str, str], *, look_up: bool = True) -> None:
        self._environ = environ
        self._look_up = look_up
        self._own: str | AddressUnknown | None = None
        self.unknown: AddressUnknown | None = None
        self.skipped = False

    def __call__(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """The CIDRs of ssh_from's words; () is "nobody wrote any".

        Raises:
            AddressUnknown: `auto` was written, and the address is not known.
        """
        cidrs = tuple(word for word in words if word not in ("auto", "none"))
        if words and "auto" not in words:
            return cidrs
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
        InvalidInput: with every option that cannot be used, or no address for `auto`.
    """
    from puter_client.batch.levels import ssh_words

    fields = laid_over(settings.defaults, options)
    fields.pop("public_key", None)
    written = fields.pop("ssh_from", None)
    problems: list[str] = []
    words: tuple[str, ...] = ()
    try:
        words = ssh_words(written) if written is not None else ()
    except ValueError as error:
        problems.append(f"--ssh-from: {error}")
    spec = Spec()
    try:
        spec = build_spec(fields)
    except InvalidSpec as error:
        problems += [f"{option_name(p.field)}: {p.told(option_name)}" for p in error.field_problems]
    if problems:
        raise InvalidInput(*problems)
    cidrs = sources(words)
    if sources.unknown is not None:
        raise sources.unknown
    return msgspec.structs.replace(spec, ssh_from=cidrs)


class Keys:
    """The key of each key name that specs ask for, found or made once."""

    def __init__(self, settings: ClientSettings, public_key_file: str | None) -> None:
        self._settings = settings
        self._file = public_key_file
        self._known: dict[str | None, ClientKey] = {}

    def into(self, spec: Spec) -> Spec:
        """The spec with its key.

        Raises:
            InvalidInput: no key can be had.
            EngineError: the state folder is not fit for keys.
        """
        if spec.key_name not in self._known:
            if self._file is None:
                self._settings.paths.secure_state()
            self._known[spec.key_name] = client_key(
                self._settings.paths.private_keys,
                key_name=spec.key_name,
                public_key_file=self._file,
                embedded=self._settings.redis_url is None,
            )
        key = self._known[spec.key_name]
        return msgspec.structs.replace(spec, public_key=key.public_key, private_key_path=key.private_key_path)


def public_key_file(settings: ClientSettings, options: Mapping[str, Any]) -> str | None:
    """The user's own public key: as the option names it, else the settings file."""
    return laid_over(settings.defaults, options).get("public_key")


def warn_of(specs: Sequence[Spec], say: Callable[[str], None]) -> None:
    """Tell, once each, of what somebody should have meant."""
    for cidr in sorted({cidr for spec in specs for cidr in spec.ssh_from if is_everybody(cidr)}):
        say(OPEN_TO_ALL.format(cidr=cidr))
    if any(spec.os is Os.AL2 and spec.ami is None for spec in specs):
        say(AL2_ENDED)


def without_a_rule(specs: Sequence[Spec], unknown: AddressUnknown) -> str:
    """The warning of a batch that goes on though this machine's address is not known.

    Raises:
        AddressUnknown: some machine has no workload, and so nothing to it but ssh.
    """
    if not all(spec.run or spec.ssh_from for spec in specs):
        raise unknown
    why = str(unknown).partition(": ")[0]
    return f"warning: {why}, so ssh is let in from nowhere new; {CHOICES}"


def described(tag: str, namespace: str, spec: Spec) -> dict[str, Any]:
    """What would be requested, for people and programs; values of variables stay hidden."""
    fields: dict[str, Any] = {"namespace": namespace, "tag": tag}
    for name in spec.__struct_fields__:
        value = getattr(spec, name)
        if name == "env":
            value = sorted(value)
        elif name == "user_data" and value is not None:
            value = f"{len(value.encode()):,} bytes"
        if value not in (None, (), {}, [], False):
            fields[name] = msgspec.to_builtins(value)
    fields["ttl_s"] = spec.ttl_s
    return fields
