"""One level of written fields (an entry's, the options', the defaults'), and how levels are merged.

From the weakest: what is built in, config.toml, the file's defaults, the command's options, the entry. `env` and
`aws_tags` are merged name by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puter_client.batch.model import CONFIG, OPTION, Level, ReadFile, Written
from puter_client.batch.problems import Problems, safe_name, unknown
from puter_client.batch.source import user_data_text
from puter_client.contract.declaration import declared, inputs
from puter_client.contract.errors import InvalidInput
from puter_client.contract.fields import FIELDS, InvalidSpec, build_spec
from puter_client.contract.key import shown
from puter_client.contract.readers import flag
from puter_client.contract.spec import Spec

TAG = "tag"
USER_DATA_FILE = "user_data_file"
_INPUTS = inputs(Spec)
MAPPINGS = tuple(name for name, field in _INPUTS.items() if field.is_mapping)

_NEEDY = frozenset(item.name for item in declared(Spec) if item.field.needs)
_CLIENT_ONLY = frozenset(name for name, field in _INPUTS.items() if field.client_only)
_REMEDIES = {
    "max_parallel": "belongs at the top of a YAML file; or use --max-parallel",
    "max_fails": "belongs at the top of a YAML file; or use --max-fails",
    "namespace": "belongs at the top of a YAML file; or use --namespace",
    "defaults": "belongs at the top of a YAML file",
    "puters": "belongs at the top of a YAML file",
    "matrix": "belongs in an entry of a YAML file",
}
_SPEC_FIELDS = _INPUTS.keys() - _CLIENT_ONLY
KNOWN = tuple(sorted({TAG, USER_DATA_FILE, *_SPEC_FIELDS}))
# In config.toml `public_key` is the path of a file, as the option is.
_KNOWN_IN_CONFIG = tuple(sorted({"public_key", *_SPEC_FIELDS}))


def about_unknown(name: str, known: tuple[str, ...] = KNOWN) -> str:
    """The message for a name that is not a known field: where it belongs, the nearest known name, or all of them."""
    if name in _CLIENT_ONLY:
        own = _INPUTS[name]
        instead = f", or use {own.option_name} {own.option.metavar}" if own.option else ""
        return f"is filled in by the client: leave it out{instead}"
    return _REMEDIES.get(name) or unknown(name, known)


class LevelReader:
    """Reads the levels of one batch; each file that they name is read once."""

    def __init__(self, problems: Problems, read_file: ReadFile) -> None:
        self._problems = problems
        self._read_file = read_file
        self._files: dict[str, str | InvalidInput] = {}

    def entry(self, fields: Level) -> Level:
        """The fields of an entry, ready to be merged; a field that cannot be used is noted and left out.

        Fields whose meaning is their own text are left for build_spec to read.
        """
        return self._level(fields, KNOWN)

    def defaults(self, fields: Level) -> Level:
        """The fields of a file's defaults: read as an entry's, and checked even if no entry uses them."""
        return self._for_many(fields, KNOWN)

    def config(self, fields: Mapping[str, Any], label: str = CONFIG) -> Level:
        """The fields of config.toml, but for `public_key`: there it is a path, which the client resolves later."""
        written = {name: Written(value, None, label) for name, value in fields.items()}
        if path := written.pop("public_key", None):
            try:
                FIELDS["private_key_path"](path.value)
            except ValueError as error:
                self._problems.add_at(path, "public_key", str(error))
        return self._for_many(written, _KNOWN_IN_CONFIG)

    def options(self, overrides: Mapping[str, Any]) -> Level:
        """The options of the command, which may include what only the client fills in."""
        given = {name: Written(value, None, OPTION) for name, value in overrides.items() if value not in (None, ())}
        clients = {name: written for name, written in given.items() if name in _CLIENT_ONLY}
        return self._for_many({name: written for name, written in given.items() if name not in clients}, KNOWN, clients)

    def _level(self, fields: Level, known: tuple[str, ...]) -> Level:
        level: Level = {}
        for name, written in fields.items():
            if name not in known:
                self._problems.add_at(written, safe_name(name).strip("'"), about_unknown(name, known))
            elif self._empty(name, written.value):
                self._problems.add_at(written, name, "is empty: leave it out, or write a value")
            elif written.value is not None:
                self._read(name, written, level)
        given = {name for name, written in fields.items() if written.value is not None}
        if {USER_DATA_FILE, "user_data"} <= given:
            self._problems.add_at(fields[USER_DATA_FILE], USER_DATA_FILE, "and user_data exclude each other: keep one")
        return level

    def _for_many(self, fields: Level, known: tuple[str, ...], clients: Level | None = None) -> Level:
        if TAG in fields and TAG in known:
            self._problems.add_at(fields[TAG], TAG, "is different for each entry: write it there")
            fields = {name: written for name, written in fields.items() if name != TAG}
        level = self._level(fields, known) | (clients or {})
        # What needs another field (env needs run) may get it from the entries; its value is checked already.
        alone = {name: w.value for name, w in level.items() if name not in _NEEDY and name != "ssh_from"}
        try:
            build_spec(alone)
        except InvalidSpec as error:
            for problem in error.field_problems:
                written = level[problem.field]
                self._problems.add_field(problem, line=written.line, label=written.label)
            for problem in error.field_problems:
                level.pop(problem.field, None)
        return level

    def _empty(self, name: str, value: Any) -> bool:
        return name != TAG and isinstance(value, str | list | tuple) and not value

    def _read(self, name: str, written: Written, level: Level) -> None:
        try:
            if name == USER_DATA_FILE:
                level["user_data"] = Written(self._user_data(written.value), written.line, written.label)
            elif name == "ssh_from":
                level[name] = Written(ssh_words(written.value), written.line, written.label)
            elif name in MAPPINGS:
                level[name] = Written(_mapping(name, written.value), written.line, written.label)
            else:
                level[name] = written
        except InvalidInput as error:
            for problem in error.problems:
                self._problems.add_at(written, name, problem)
        except ValueError as error:
            self._problems.add_at(written, name, str(error))

    def _user_data(self, path: Any) -> str:
        if not isinstance(path, str):
            raise ValueError("write the path of one file")
        if path not in self._files:
            try:
                self._files[path] = FIELDS["user_data"](user_data_text(self._read_file, path))
            except InvalidInput as error:
                self._files[path] = error
            except ValueError as error:
                self._files[path] = InvalidInput(f"{shown(path)}: {error}")
        found = self._files[path]
        if isinstance(found, InvalidInput):
            raise found
        return found


def _mapping(name: str, value: Any) -> dict[str, str]:
    if isinstance(value, str):
        raise ValueError("is a text: write names with values (K: V)")
    if isinstance(value, Mapping):
        for key in value:
            # The reader's message would show the whole name, and with it the value of `{TOKEN=abc}`.
            if "=" in str(key) and name == "env":
                raise ValueError(f"{safe_name(str(key))}: write NAME: value, not NAME=value")
    checked: dict[str, str] = FIELDS[name](value)
    return checked


def ssh_words(value: Any) -> tuple[str, ...]:
    """Who may reach port 22, as written: ("none",), or CIDRs with "auto" before them if it is written.

    Raises:
        ValueError: a word is none of these, or `none` is not the only one.
    """
    if not isinstance(value, str | list | tuple):
        FIELDS["ssh_from"](value)
        raise ValueError("write auto, none or CIDRs")
    words = value.split() if isinstance(value, str) else list(value)
    if not words:
        raise ValueError("is empty: leave it out, or write none")
    if words == ["none"]:
        return ("none",)
    if "none" in words:
        raise ValueError("none must be the only value: remove it, or the others")
    cidrs: tuple[str, ...] = FIELDS["ssh_from"]([word for word in words if word != "auto"])
    return ("auto", *cidrs) if "auto" in words else cidrs


def laid_over(*levels: Level) -> Level:
    """The fields that hold where several levels are written, the weakest first.

    The stronger level's value holds; mappings are merged name by name. A field that answers the same question as
    others (`ttl` and `no_shutdown`, `os` and `ami`) overrides theirs in weaker levels.
    """
    merged: Level = {}
    for level in levels:
        for name, written in level.items():
            for other in _overridden(name, written.value):
                merged.pop(other, None)
        for name, written in level.items():
            weaker = merged.get(name)
            if weaker is not None and name in MAPPINGS:
                written = Written({**weaker.value, **written.value}, written.line, written.label)  # noqa: PLW2901
            merged[name] = written
    return merged


def _overridden(name: str, value: Any) -> tuple[str, ...]:
    field = _INPUTS.get(name)
    if field is None:
        return ()
    # A flag that is false answers nothing but itself: `no_shutdown: false` does not say for how long.
    says_no = field.read is flag and str(value).lower() != "true"
    return () if says_no else field.sets_aside


def refuse_auto(words: tuple[str, ...]) -> tuple[str, ...]:
    """The resolver where this machine's address cannot be known: ssh from nowhere unless CIDRs are written."""
    if words:
        raise InvalidInput("'auto': this machine's address is not known here; write CIDRs or none")
    return ()
