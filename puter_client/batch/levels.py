"""One level of written fields (an entry's, the options', the defaults') read, and levels laid over each other.

Entry beats option beats the file's defaults beats what is built in. `env` and `aws_tags` are merged name by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puter_client.batch.model import Level, ReadFile, ResolveSshFrom, Written
from puter_client.batch.problems import Problems, safe_name, unknown
from puter_client.contract.errors import InvalidInput
from puter_client.contract.fields import FIELDS, USER_DATA_LIMIT_BYTES, InvalidSpec, build_spec
from puter_client.contract.key import shown

TAG = "tag"
USER_DATA_FILE = "user_data_file"
MAPPINGS = ("env", "aws_tags")

_REMEDIES = {
    "public_key": "is filled in by the client: leave it out; --public-key names your own, key_name the key pair",
    "private_key_path": "is filled in by the client: leave it out; key_name names the key pair",
    "max_parallel": "stands once, at the top of a YAML file; or give --max-parallel",
    "namespace": "stands once, at the top of a YAML file; or give --namespace",
    "defaults": "stands at the top of a YAML file only",
    "puters": "stands at the top of a YAML file only",
    "matrix": "stands in an entry of a YAML file only",
}
KNOWN = tuple(sorted({TAG, USER_DATA_FILE, *FIELDS} - _REMEDIES.keys()))
_CLIENTS_OWN = frozenset({"public_key", "private_key_path"})
_SPEC_FIELDS = frozenset(FIELDS) - _REMEDIES.keys()


def about_unknown(name: str, known: tuple[str, ...] = KNOWN) -> str:
    """What to say of a name that no field has: its remedy, the nearest known name, or all of them."""
    return _REMEDIES.get(name) or unknown(name, known)


class LevelReader:
    """Reads levels of one batch; each file that they name is read once."""

    def __init__(self, problems: Problems, read_file: ReadFile) -> None:
        self._problems = problems
        self._read_file = read_file
        self._files: dict[str, str | InvalidInput] = {}

    def entry(self, fields: Level) -> Level:
        """An entry's fields, ready to be laid over others; what cannot be used is noted and left out.

        Fields that stand for themselves are left for build_spec to read.
        """
        level: Level = {}
        for name, written in fields.items():
            if name in _SPEC_FIELDS or name in {TAG, USER_DATA_FILE}:
                if self._empty(name, written.value):
                    self._problems.add_at(written, name, "is empty: leave it out, or write a value")
                elif written.value is not None:
                    self._read(name, written, level)
            else:
                self._problems.add_at(written, safe_name(name).strip("'"), about_unknown(name))
        given = {name for name, written in fields.items() if written.value is not None}
        if {USER_DATA_FILE, "user_data"} <= given:
            self._problems.add_at(fields[USER_DATA_FILE], USER_DATA_FILE, "and user_data exclude each other: keep one")
        return level

    def defaults(self, fields: Level) -> Level:
        """Fields that hold for many entries: read as an entry's, and checked even if no entry uses them."""
        return self._for_many(fields, {})

    def options(self, overrides: Mapping[str, Any]) -> Level:
        """Options of the command, which may carry what only the client fills in."""
        given = {name: Written(value, None, "--") for name, value in overrides.items() if value not in (None, ())}
        clients = {name: written for name, written in given.items() if name in _CLIENTS_OWN}
        return self._for_many({name: written for name, written in given.items() if name not in clients}, clients)

    def _for_many(self, fields: Level, clients: Level) -> Level:
        if TAG in fields:
            self._problems.add_at(fields[TAG], TAG, "is each entry's own: write it there")
        level = self.entry({name: written for name, written in fields.items() if name != TAG}) | clients
        # env is checked already, and without run it would be refused: the entries bring run.
        alone = {name: w.value for name, w in level.items() if name not in {"env", "ssh_from"}}
        try:
            build_spec(alone)
        except InvalidSpec as error:
            for problem in error.field_problems:
                self._problems.add_at(level[problem.field], problem.field, problem.told())
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
                content = self._read_file(path)
                if len(content) > USER_DATA_LIMIT_BYTES:
                    raise ValueError("is over 16 KB: EC2 takes no more user data in all")
                self._files[path] = FIELDS["user_data"](content.decode("utf-8-sig"))
            except InvalidInput as error:
                self._files[path] = error
            except UnicodeDecodeError:
                self._files[path] = InvalidInput(f"{shown(path)}: is not UTF-8 text; write the script as UTF-8")
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
            # The contract's message would show the whole name, and with it the value of `{TOKEN=abc}`.
            if "=" in str(key) and name == "env":
                raise ValueError(f"{safe_name(str(key))}: write NAME: value, not NAME=value")
    checked: dict[str, str] = FIELDS[name](value)
    return checked


def ssh_words(value: Any) -> tuple[str, ...]:
    """Who may reach port 22 as written: ("none",), or "auto" if it is among them and then CIDRs.

    Raises:
        ValueError: a word is none of these, or `none` has company.
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
        raise ValueError("none stands alone: remove it, or the rest")
    cidrs: tuple[str, ...] = FIELDS["ssh_from"]([word for word in words if word != "auto"])
    return ("auto", *cidrs) if "auto" in words else cidrs


def laid_over(weaker: Level, stronger: Level) -> Level:
    """The fields that hold where both levels are written."""
    merged = dict(weaker)
    # These answer one question in two ways: who answers it anew sets the weaker answer aside.
    if "ttl" in stronger:
        merged.pop("no_shutdown", None)
    if "no_shutdown" in stronger and str(stronger["no_shutdown"].value).lower() == "true":
        merged.pop("ttl", None)
    if "os" in stronger:
        merged.pop("ami", None)
    for name, written in stronger.items():
        if name in MAPPINGS and name in weaker:
            both = {**weaker[name].value, **written.value}
            merged[name] = Written(both, written.line, written.label)
        else:
            merged[name] = written
    return merged


class SshSources:
    """The CIDRs of each distinct ssh_from, requested once, when an entry first needs them."""

    def __init__(self, resolve: ResolveSshFrom) -> None:
        self._resolve = resolve
        self._known: dict[tuple[str, ...], tuple[str, ...] | InvalidInput] = {}

    def cidrs(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """CIDRs for words of ssh_words; () stands for "nobody wrote any".

        Raises:
            InvalidInput: the resolver's.
        """
        if words == ("none",):
            return ()
        if words and "auto" not in words:
            return words
        if words not in self._known:
            try:
                self._known[words] = self._resolve(words)
            except InvalidInput as error:
                self._known[words] = error
        found = self._known[words]
        if isinstance(found, InvalidInput):
            raise found
        return found


def refuse_auto(words: tuple[str, ...]) -> tuple[str, ...]:
    """The resolver where nobody can tell this machine's address: ssh from nowhere unless CIDRs are written."""
    if words:
        raise InvalidInput("'auto': this machine's address is not known here; write CIDRs or none")
    return ()
