"""From a sheet of written rows to checked entries: levels laid over each other, matrices expanded, specs built."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from puter_client.batch.levels import TAG, LevelReader, laid_over
from puter_client.batch.model import CONFIG, MAX_ENTRIES, OPTION, Entry, Level, ResolveSshFrom, Row, Sheet, Written
from puter_client.batch.problems import Problems, safe_name
from puter_client.batch.template import Template, UnknownPlaceholder
from puter_client.contract.errors import InvalidInput
from puter_client.contract.fields import InvalidSpec, build_spec
from puter_client.contract.key import check_tag, shown
from puter_client.contract.spec import Spec


class Builder:
    """Makes the entries of one sheet; a row that cannot be used is noted in `problems` and left out.

    Each distinct ssh_from is resolved once, when an entry first needs it.
    """

    def __init__(self, problems: Problems, reader: LevelReader, resolve_ssh_from: ResolveSshFrom) -> None:
        self._problems = problems
        self._reader = reader
        self._resolve = resolve_ssh_from
        self._resolved: dict[tuple[str, ...], tuple[str, ...] | InvalidInput] = {}
        self._first: dict[str, Row] = {}

    def one(self, *, config: Mapping[str, Any], overrides: Mapping[str, Any]) -> Spec | None:
        """The spec that options describe by themselves; None if they cannot be used."""
        row = Row(None, OPTION, {})
        fields = laid_over(self._reader.config(config), self._reader.options(overrides))
        # An address is looked up only for what can be used otherwise.
        self._spec(row, {name: written for name, written in fields.items() if name != "ssh_from"})
        return None if self._problems else self._spec(row, self._with_ssh(fields))

    def entries(self, sheet: Sheet, *, config: Mapping[str, Any], overrides: Mapping[str, Any]) -> tuple[Entry, ...]:
        """The entries of all rows, in order."""
        reader = self._reader
        base = laid_over(reader.config(config), reader.defaults(sheet.defaults), reader.options(overrides))
        entries: list[Entry] = []
        total = 0
        for row in sheet.rows:
            total += math.prod(len(values) for values in (row.matrix or {}).values())
            if total > MAX_ENTRIES:
                self._problems.add(
                    f"has over {MAX_ENTRIES:,} puters: split it into several batches",
                    line=row.line,
                    label=row.label,
                )
                break
            entries.extend(self._entries_of(row, base))
        return tuple(entries)

    def _entries_of(self, row: Row, base: Level) -> Iterator[Entry]:
        level = self._reader.entry(row.fields)
        tag = level.pop(TAG, None)
        merged = laid_over(base, level)
        given = frozenset(name for name, written in merged.items() if written.label != CONFIG)
        fields = self._with_ssh(merged)
        if tag is None or not isinstance(tag.value, str):
            message = "is missing: every puter needs its own" if tag is None else "is not a text: put it in quotes"
            self._problems.add(message, line=row.line, label=row.label, field=TAG)
            self._spec(row, fields)
            return
        for text, own in self._expanded(row, tag, fields):
            checked = self._tag(row, tag, text)
            spec = self._spec(row, own)
            if checked and spec:
                where = "--tag" if row.line is None else f"{self._problems.name}:{row.line}"
                yield Entry(text, spec, where, given)

    def _expanded(self, row: Row, tag: Written, fields: Level) -> Iterator[tuple[str, Level]]:
        """The tag and fields of each combination of the row's matrix, or of the row itself if it has none."""
        if row.matrix is None:
            yield tag.value, fields
            return
        names = row.matrix.keys()
        tags = self._template(tag, TAG, tag.value, names)
        texts = self._templates_of(fields, names)
        if tags is None or texts is None:
            return
        unused = [name for name, values in row.matrix.items() if len(values) > 1 and name not in tags.names]
        if unused:
            missing = " and ".join(f"{{{name}}}" for name in unused)
            self._problems.add_at(tag, TAG, f"{shown(tag.value)}: add {missing}, or several puters have the same tag")
            return
        run, env = texts
        for values in itertools.product(*row.matrix.values()):
            chosen = dict(zip(names, values, strict=True))
            own = dict(fields)
            if run is not None:
                own["run"] = _replaced(fields["run"], run.filled(chosen))
            if env:
                own["env"] = _replaced(fields["env"], {name: text.filled(chosen) for name, text in env.items()})
            yield tags.filled(chosen), own

    def _templates_of(
        self, fields: Level, names: Collection[str]
    ) -> tuple[Template | None, dict[str, Template]] | None:
        """The templates of run and of each variable of env; None if one of them is not a template."""
        command: Template | None = None
        variables: dict[str, Template] = {}
        usable = True
        if (run := fields.get("run")) and isinstance(run.value, str):
            command = self._template(run, "run", run.value, names)
            usable = command is not None
        if env := fields.get("env"):
            for name, text in env.value.items():
                template = self._template(env, f"env.{name}", text, names, secret=True)
                if template is None:
                    usable = False
                else:
                    variables[name] = template
        return (command, variables) if usable else None

    def _template(
        self, written: Written, field: str, text: str, names: Collection[str], *, secret: bool = False
    ) -> Template | None:
        try:
            return Template.parse(text, names)
        except UnknownPlaceholder as error:
            known = ", ".join(f"{{{name}}}" for name in list(names)[:10])
            piece = "contains braces that are" if secret else f"{safe_name(error.piece)} is"
            message = f"{piece} none of the placeholders {known}; double the braces to keep them: {{{{ }}}}"
            self._problems.add_at(written, field, message)
            return None

    def _with_ssh(self, fields: Level) -> Level:
        written = fields.get("ssh_from")
        try:
            cidrs = self._cidrs(written.value if written else ())
        except InvalidInput as error:
            for problem in error.problems:
                self._problems.add_at(written or Written((), 0), "ssh_from", problem)
            return {name: other for name, other in fields.items() if name != "ssh_from"}
        return {**fields, "ssh_from": _replaced(written or Written((), 0), cidrs)}

    def _cidrs(self, words: tuple[str, ...]) -> tuple[str, ...]:
        if words == ("none",):
            return ()
        if words and "auto" not in words:
            return words
        if words not in self._resolved:
            try:
                self._resolved[words] = self._resolve(words)
            except InvalidInput as error:
                self._resolved[words] = error
        found = self._resolved[words]
        if isinstance(found, InvalidInput):
            raise found
        return found

    def _tag(self, row: Row, tag: Written, text: str) -> bool:
        try:
            check_tag(text)
        except InvalidInput as error:
            self._problems.add_at(tag, TAG, error.message)
            return False
        if text not in self._first:
            self._first[text] = row
            return True
        first = self._first[text]
        again = "its matrix makes it more than once" if first is row else f"line {first.line} has it too"
        self._problems.add_at(tag, TAG, f"{shown(text, 130)}: duplicate tag, {again}; every puter needs its own")
        return False

    def _spec(self, row: Row, fields: Level) -> Spec | None:
        try:
            return build_spec({name: written.value for name, written in fields.items()})
        except InvalidSpec as error:
            for problem in error.field_problems:
                # Each level's env is fine by itself: if a file has a row that runs nothing, the row is the problem.
                written = None if problem.field == "env" and row.line is not None else fields.get(problem.field)
                place = written or row
                self._problems.add_field(problem, line=place.line, label=place.label)
            return None


def _replaced(written: Written, value: Any) -> Written:
    return Written(value, written.line, written.label)
