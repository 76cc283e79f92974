"""The pages say what is so: links lead somewhere, commands exist, names are those of the code."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import subprocess
import tomllib
from enum import StrEnum
from pathlib import Path
from types import ModuleType

import click
import pytest

from puter_client.acl.rules import FIRST_LINES, SERVICES, Role, line, rules
from puter_client.batch import read_batch
from puter_client.cli import demo
from puter_client.cli.app import puter
from puter_client.cli.group import COMMANDS
from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Phase
from puter_client.contract.record import EventKind
from puter_client.contract.result import Result
from puter_client.store import names as public
from puter_client.view import View
from puter_worker.store import names

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
OPERATIONS, ARCHITECTURE = TEXTS["docs/operations.md"], TEXTS["docs/architecture.md"]
PAGE = pytest.mark.parametrize("name", TEXTS)


def blocks(language: str) -> list[tuple[str, str]]:
    """Every fenced block of a language, with its page."""
    return [
        (name, text)
        for name, page in TEXTS.items()
        for text in re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    ]


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as the usual renderers make them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def typed() -> list[str]:
    """The command lines of Puter's that pages show, each without its comment and what it is piped from."""
    lines = [line for _, text in blocks("(?:console|bash)") for line in text.splitlines()]
    shown = [re.sub(r"^\$ ", "", line) for line in lines]
    calls = [re.search(r"(?:^|\| )(?:[A-Z_]+=\S+ )*(puter .*)", line) for line in shown]
    return [re.sub(r"\s+#.*$", "", call[1]) for call in calls if call]


def named() -> set[str]:
    """What stands behind `puter` wherever pages show it as code."""
    spans = [span for text in TEXTS.values() for span in re.findall(r"`(puter [^`]+)`", prose(text))]
    return {words[1] for line in (*typed(), *spans) if len(words := line.split()) > 1}


@PAGE
def test_every_link_leads_somewhere(name: str) -> None:
    page = ROOT / name
    astray = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose(TEXTS[name])):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            astray.append(link)

    assert astray == []


@PAGE
def test_no_line_of_a_page_speaks_of_where_it_was_made(name: str) -> None:
    assert re.findall(r"/work/(?:main|shared|\.)|DESIGN\.md|pypi\.org", TEXTS[name]) == []


def test_every_page_of_the_docs_is_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+)\)", TEXTS["README.md"]))

    assert linked == {name for name in TEXTS if name.startswith("docs/")}


def test_the_readme_begins_with_the_two_commands_that_need_no_account() -> None:
    first = next(text for name, text in blocks("bash") if name == "README.md")

    assert re.findall(r"^make \w+", first, re.MULTILINE) == ["make demo", "make test"]


@pytest.mark.parametrize(("name", "text"), blocks("bash"))
def test_every_shell_block_is_a_shells(name: str, text: str) -> None:
    read = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)

    assert read.returncode == 0, f"{name}: {read.stderr}"


@pytest.mark.parametrize(("name", "text"), blocks("toml"))
def test_every_toml_block_is_toml(name: str, text: str) -> None:
    assert tomllib.loads(text), name


@pytest.mark.parametrize(("name", "text"), blocks("python"))
def test_every_python_block_is_python(name: str, text: str) -> None:
    assert compile(text, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


BATCHES = [(name, text) for name, text in blocks("yaml") if "\nputers:" in f"\n{text}"]


@pytest.mark.parametrize(("name", "text"), BATCHES)
def test_every_batch_that_pages_show_can_be_submitted(name: str, text: str) -> None:
    batch = read_batch("-", text.encode(), overrides={}, config={}, format="yaml", resolve_ssh_from=lambda _: ())

    assert batch.entries, name


def test_the_readme_begins_with_the_batch_of_the_demo() -> None:
    first = next(text for name, text in blocks("yaml") if name == "README.md")

    assert first == demo.batch_text(Path("/mnt/data"), demo.COUNT)


def test_every_command_that_pages_name_exists() -> None:
    commands = {name for name in named() if re.fullmatch(r"[a-z][a-z-]*", name)}

    assert commands
    assert commands <= COMMANDS.keys()


def test_every_command_that_exists_is_named() -> None:
    assert COMMANDS.keys() <= {word for text in TEXTS.values() for word in re.findall(r"`?\bputer ([a-z-]+)", text)}


@pytest.mark.parametrize("line", typed())
def test_every_option_that_pages_show_exists(line: str) -> None:
    words = shlex.split(line.partition(" -- ")[0])[1:]
    name = words[0] if words[0] in COMMANDS else "up"
    context = click.Context(puter)
    command = puter.get_command(context, name)
    assert command is not None
    for word in words[1:]:
        if not isinstance(command, click.Group):
            break
        command = command.get_command(context, word)
        assert command is not None, f"there is no such command: {line}"
    options = {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)}

    shown = {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"}
    assert shown - options - {"--help", "--version"} == set()


def test_the_users_that_operations_shows_have_the_rules_that_are_given() -> None:
    named = [(str(role), role) for role in SERVICES] + [("betty", Role.CLIENT), ("vic", Role.VIEWER)]
    lines = [line(name, "SHA256", rules(role, user=name, namespace="team-a")) for name, role in named]

    assert "\n".join([*FIRST_LINES, *lines]) in OPERATIONS


def test_every_setting_of_a_worker_is_in_operations() -> None:
    settings = (ROOT / "puter_worker" / "settings.py").read_text()
    # The local engine's own.
    read = set(re.findall(r'"(PUTER_[A-Z_]+)"', settings)) - {"PUTER_IDLE_EXIT_S"}

    assert {name for name in read if f"`{name}`" not in OPERATIONS} == set()


def test_every_event_that_operations_explains_is_logged() -> None:
    section = OPERATIONS.partition("## Logs")[2].partition("\n## ")[0]
    events = {event for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for event in row.split(", ")}
    sources = "".join(path.read_text() for path in (ROOT / "puter_worker").rglob("*.py"))
    # What became of an instance is logged under the name of its timeline's event.
    events = {event.strip("`") for event in events if re.fullmatch(r"`[a-z]+\.[a-z_]+`", event)}
    shown = {"instance.running", "instance.terminated", "instance.failed", "instance.overdue"}

    assert shown <= events & set(EventKind)
    assert {event for event in events - shown if f'"{event}"' not in sources} == set()


def logged() -> set[tuple[str, str]]:
    """The events that workers log, each with its level."""
    calls = [
        node
        for path in (ROOT / "puter_worker").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) == "_log"
    ]
    return {
        (call.args[0].value, call.func.attr)
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in {"info", "warning", "error"}
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
    }


@pytest.mark.parametrize(("event", "level"), sorted(logged()))
def test_every_event_that_a_worker_logs_is_explained(event: str, level: str) -> None:
    section = OPERATIONS.partition("## Logs")[2].partition("\n## ")[0]

    assert re.search(rf"^\| [^|]*`{re.escape(event)}`[^|]* \| {level} \|", section, re.MULTILINE)


@pytest.mark.parametrize(("option", "words"), [("--phase", Phase), ("--result", Result)])
def test_every_value_of_a_filter_is_in_commands(option: str, words: type[StrEnum]) -> None:
    (row,) = re.findall(rf"^\| `{option} [A-Z]+` \|(.*)$", TEXTS["docs/commands.md"], re.MULTILINE)

    assert re.findall(r"`(\w+)`", row) == list(words)


def redis_names(module: ModuleType) -> set[str]:
    """Every name that a module of names makes, with what varies in angle brackets."""
    key = PuterKey("<namespace>", "<tag>")
    given = {"namespace": "<namespace>", "key": key, "target": "<target>", "intent_id": "<intent>", "name": "<action>",
             "batch_id": "<batch>", "what": "<what>", "worker_id": "<worker>", "account": "<account>",
             "region": "<region>", "inbox": "<inbox>", "phase": "<phase>", "user": "<user>"}  # fmt: skip
    made = {
        function(**{parameter: given[parameter] for parameter in inspect.signature(function).parameters})
        for function in vars(module).values()
        if inspect.isfunction(function)
    }
    constants = {value for value in vars(module).values() if isinstance(value, str) and value.startswith("puter:")}
    return made | constants


def test_every_name_in_redis_is_in_architecture() -> None:
    made = redis_names(public) | redis_names(names)

    assert {name for name in made if f"`{name}`" not in ARCHITECTURE} == set()


def test_every_name_in_architecture_is_in_the_code() -> None:
    section = ARCHITECTURE.partition("\n## Redis")[2].partition("\n## ")[0]
    told = set(re.findall(r"^\| `(puter:[^`]+)` \|", section, re.MULTILINE))

    assert told == redis_names(public) | redis_names(names)


def test_every_field_for_programs_is_in_architecture() -> None:
    section = ARCHITECTURE.partition("* **`--json`**")[2].partition("\n* ")[0]
    fields = set(re.findall(r"[a-z][a-z0-9_]+", section))

    assert View(namespace="a", tag="b").to_json().keys() <= fields
