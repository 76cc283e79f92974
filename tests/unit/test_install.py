"""How to install Puter, wherever it is told: from the project's folder with locked versions, never by a name.

The name `puter` on the public index is another project's, and this project's own name is not published: whoever
installs either by name may get a stranger's code.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from puter_client.packages import how_to_install

ROOT = Path(__file__).parents[2]
LOCKS = {path.name for path in (ROOT / "requirements").glob("*.txt")}
# Text that tells something, in whatever form: pages, messages, units, images, recipes.
TOLD = {".md", ".py", ".toml", ".yaml", ".yml", ".service", ".sh", ".conf", ".json", ".cfg", ""}
_INSTALLS = re.compile(
    r"\b(?:(?:pip|pip3|pipx|uv pip|uv tool|conda|poetry|uv) (?:install|add|download|wheel|run)|uvx)\b(?P<what>[^`\n]*)"
)
_OWN = {".", "dist/puter_ec2-*.whl"}  # what is built here


def texts() -> dict[str, str]:
    """Every text of the project but this one and the locks, by its path."""
    passed_over = {".git", *(line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines())}
    found: dict[str, str] = {}
    for folder, inner, files in os.walk(ROOT):
        inner[:] = [name for name in inner if name not in passed_over]
        paths = [Path(folder, name) for name in files if Path(name).suffix in TOLD]
        found |= {str(path.relative_to(ROOT)): path.read_text() for path in paths if path != Path(__file__)}
    return found


TEXTS = texts()


def names_in(text: str) -> list[str]:
    """What a text tells to install that is neither locked by this project nor the project itself."""
    found = []
    for install in _INSTALLS.finditer(text.replace("\\\n", " ")):
        words = [word.strip("'\"(),;:").replace("\\.", ".") for word in install["what"].split()]
        ends = [at for at, word in enumerate(words) if not word or word[0] in "&|<>#"]
        words = words[: ends[0]] if ends else words
        for before, word in zip(["", *words], words, strict=False):
            if before == "-r":
                locked = Path(word).name in LOCKS or word == "requirements/{lock}.txt"
                found += [] if locked else [word]
            elif not word.startswith("-") and word not in _OWN:
                found.append(word)
    return found


def test_there_are_texts_that_tell_how_to_install() -> None:
    telling = {name for name, text in TEXTS.items() if _INSTALLS.search(text)}

    assert {
        "README.md",
        "Makefile",
        "docs/shared-host.md",
        "deploy/Containerfile",
        "puter_client/packages.py",
    } <= telling


def test_nobody_is_told_to_install_a_name_from_an_index() -> None:
    assert {name: found for name, text in TEXTS.items() if (found := names_in(text))} == {}


def test_nobody_is_told_to_install_an_extra() -> None:
    extras = re.compile(r"\bputer(?:-ec2)?\[\w+\]|'\.\[\w+\]'")

    assert {name for name, text in TEXTS.items() if extras.search(text)} == {"pyproject.toml"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("pip install puter", ["puter"]),
        ("run `pip install 'puter[worker]'` first", ["puter[worker]"]),
        ("pip install \\\n    --quiet puter", ["puter"]),
        ("/opt/puter/bin/pip install --upgrade puter-ec2==0.1.0 && x", ["puter-ec2==0.1.0"]),
        ("python -m pip install --require-hashes -r requirements/nothing.txt", ["requirements/nothing.txt"]),
        ("pip install --require-hashes -r requirements/worker.txt", []),
        ("pip install --no-deps dist/puter_ec2-*.whl", []),
        ("uvx puter", ["puter"]),
        ("pipx install puter-ec2", ["puter-ec2"]),
    ],
)
def test_a_name_is_found_where_there_is_one(text: str, names: list[str]) -> None:
    assert names_in(text) == names


@pytest.mark.parametrize("name", ["README.md", "docs/shared-host.md"])
def test_an_installation_is_the_wheel_with_locked_packages(name: str) -> None:
    steps = re.findall(r"^(make wheel|\S+/pip install .*)$", TEXTS[name], re.MULTILINE)
    wheel, packages, itself = (step.rpartition("/pip ")[2] for step in steps)

    assert wheel == "make wheel"
    assert packages in {f"install --require-hashes -r requirements/{lock}" for lock in ("local.txt", "worker.txt")}
    assert itself == "install --no-deps dist/puter_ec2-*.whl"


def test_every_lock_that_may_be_chosen_is_in_the_readme() -> None:
    section = TEXTS["README.md"].partition("\n## Install\n")[2].partition("\n## ")[0]

    assert {f"`requirements/{lock}`" for lock in LOCKS - {"dev.txt"}} <= set(re.findall(r"`requirements/\S+`", section))


def test_the_wheel_of_the_pages_is_what_make_builds() -> None:
    recipe = TEXTS["Makefile"].partition("\nwheel: venv\n")[2].partition("\n\n")[0]

    # Of two versions in the folder, pip would take neither.
    assert recipe.split("\n") == ["\t@rm -f dist/*.whl", "\t@$(BIN)/python -m hatchling build -t wheel"]


def test_the_image_of_a_worker_is_built_here_and_never_pulled() -> None:
    services = yaml.safe_load(TEXTS["compose.yaml"])["services"].values()

    assert {service.get("pull_policy") for service in services if "build" in service} == {"build"}


def test_a_message_names_the_python_that_lacks_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/home/a b/bin/python")

    assert how_to_install("demo") == (
        "run `'/home/a b/bin/python' -m pip install --require-hashes -r requirements/demo.txt` "
        "in the folder of Puter's source code"
    )
