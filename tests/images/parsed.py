"""The project's Dockerfile as BuildKit's own parser reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dockerfile

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "images" / "Dockerfile"
LOCKS = ROOT / "images" / "locks"


@dataclass
class Stage:
    """A FROM and the commands after it."""

    name: str
    base: str
    commands: list[Any] = field(default_factory=list)

    def all(self, instruction: str) -> list[Any]:
        return [command for command in self.commands if command.cmd == instruction]


def stages() -> dict[str, Stage]:
    found: dict[str, Stage] = {}
    for command in dockerfile.parse_file(str(DOCKERFILE)):
        if command.cmd == "FROM":
            base, _, name = command.value
            found[name] = stage = Stage(name, base)
        elif found:
            stage.commands.append(command)
    return found


def global_arguments() -> list[str]:
    """The ARGs before the first FROM, as written: one with a default is NAME=value."""
    found = []
    for command in dockerfile.parse_file(str(DOCKERFILE)):
        if command.cmd == "FROM":
            break
        found += command.value
    return found


def chain(name: str) -> list[Stage]:
    """A stage and the stages of this file that it is built on, nearest first."""
    known = stages()
    found = [known[name]]
    while (base := found[-1].base) in known:
        found.append(known[base])
    return found


def effective(name: str, instruction: str) -> Any:
    """The last `instruction` that applies to a target; fail if there is none."""
    for stage in chain(name):
        if commands := stage.all(instruction):
            return commands[-1]
    raise AssertionError(f"{name} has no {instruction}")


def pairs(name: str, instruction: str) -> dict[str, str]:
    """Keys and values of ENV or LABEL that apply to a target."""
    found: dict[str, str] = {}
    for stage in reversed(chain(name)):
        for command in stage.all(instruction):
            words = command.value  # key, value; again and again
            found |= {k: v.strip('"') for k, v in zip(words[::2], words[1::2], strict=True)}
    return found


def versions() -> dict[str, str]:
    """The variables of images/versions.env."""
    lines = (ROOT / "images" / "versions.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def locked(name: str) -> dict[str, str]:
    """The version of each package in a lock file."""
    lines = (LOCKS / f"{name}.lock").read_text().splitlines()
    pins = (line.split()[0].split("==") for line in lines if line[:1].isalnum())
    return {package: version for package, version, *_ in pins}
