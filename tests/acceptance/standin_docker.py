"""`docker compose …` without Docker: commands are checked against compose.yaml, and the service `admin` is run here.

Of all other services nothing is started. `up` refuses what Compose would refuse, such as a folder that is not there,
and says which services it would start. What would run in a container is told, one line a command.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

import yaml

PROJECT = Path.cwd()
# The options that pages use, and whether a value follows.
OPTIONS: dict[str, dict[str, bool]] = {
    "run": {"--rm": False, "-T": False, "--no-deps": False, "-v": True, "--entrypoint": True},
    "exec": {"-T": False, "-e": True},
    "up": {"--build": False, "--detach": False, "--wait": False, "--no-deps": False},
    "ps": {}, "start": {}, "stop": {},
}  # fmt: skip


def refuse(why: str) -> NoReturn:
    """Say what Docker does not know, and end."""
    print(f"docker: {why}", file=sys.stderr)
    sys.exit(1)


def settings() -> dict[str, str]:
    """What compose.yaml is filled in with: `.env`, and the environment, which goes before it."""
    path = PROJECT / ".env"
    lines = path.read_text().splitlines() if path.exists() else []
    return dict(line.split("=", 1) for line in lines) | os.environ


def filled_in(text: str) -> str:
    """A value of compose.yaml with its variables."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: settings().get(found[1]) or found[2], text)


def binds(service: dict[str, Any]) -> dict[str, Path]:
    """The folders of the host that a service sees, by where it sees them; each has to be there."""
    found = {}
    for volume in service["volumes"]:
        if isinstance(volume, dict) and volume["type"] == "bind":
            source = PROJECT / Path(filled_in(volume["source"])).expanduser()
            if not source.is_dir():
                refuse(f"{source} is not there")
            found[volume["target"]] = source
    return found


def check_user(service: dict[str, Any]) -> None:
    """The container's user has to be the one who owns what it reads and writes."""
    if filled_in(service["user"]) != f"{os.getuid()}:{os.getgid()}":
        refuse(f"the user {filled_in(service['user'])} cannot write this folder")


def run_here(service: dict[str, Any], words: list[str]) -> NoReturn:
    """What the container of a service that sees one folder runs, here."""
    check_user(service)
    ((target, folder),) = binds(service).items()
    environ = {**os.environ, **service["environment"], "PUTER_HOST_FOLDER": str(folder)}
    seen = [word.replace(target, str(folder), 1) if word.startswith(f"{target}/") else word for word in words]
    _, *entrypoint = service["entrypoint"]
    os.execve(sys.executable, [sys.executable, *entrypoint, *seen], environ)


def up(services: dict[str, Any], named: list[str]) -> None:
    """What `up` needs; says what it would start, and with which policy."""
    started = {name: one for name, one in services.items() if (name in named if named else "profiles" not in one)}
    policy = ""
    for name, service in started.items():
        mounted = binds(service)
        if name == "worker":
            check_user(service)
            (env_file,) = service["env_file"]
            if not (PROJECT / env_file["path"]).is_file():
                refuse(f"a worker has no URL: {env_file['path']} is not there")
            policy = settings().get("PUTER_POLICY", "") if "PUTER_POLICY" in service["environment"] else ""
            folder, _, file = policy.rpartition("/")
            if policy and not (mounted[folder] / file).is_file():
                refuse(f"{policy} is not there")
    print(f"up: {', '.join(started)}{f' with {policy}' if policy else ''}")


def compose(services: dict[str, Any], verb: str, *words: str) -> None:
    """One command of Compose."""
    rest = list(words)
    given: dict[str, str] = {}
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option not in OPTIONS.get(verb, {}):
            refuse(f"unknown flag of {verb}: {option}")
        given[option] = rest.pop(0) if OPTIONS[verb][option] else ""
    if given.get("-e", "PATH") not in os.environ:
        refuse(f"{given['-e']} is not set")
    has_command = verb in ("run", "exec")
    named = rest[:1] if has_command else rest
    if verb not in OPTIONS or not set(named) <= services.keys() or (has_command and not named):
        refuse(f"unknown: compose {verb} {' '.join(words)}")
    if verb == "up":
        up(services, named)
    elif verb == "run" and "--entrypoint" not in given:
        run_here(services[named[0]], rest[1:])
    else:
        print(" ".join([verb, *named, *filter(None, [given.get("--entrypoint")]), *rest[len(named) :]]))


def main(*words: str) -> None:
    file = yaml.safe_load((PROJECT / "compose.yaml").read_text())
    match words:
        case ("compose", verb, *rest):
            compose(file["services"], verb, *rest)
        case ("volume", "inspect", "-f", "{{.Mountpoint}}", name) if name in {
            f"{file['name']}_{volume}" for volume in file["volumes"]
        }:
            print(f"/var/lib/docker/volumes/{name}/_data")
        case _:
            refuse(f"unknown: {' '.join(words)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
