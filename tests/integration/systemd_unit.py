"""What a unit file asks of systemd, for tests on a machine that systemd does not run on."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path


class Unit:
    """A service file; a key that stands twice has both values."""

    def __init__(self, path: Path) -> None:
        self._values: dict[str, list[str]] = {}
        for line in path.read_text().splitlines():
            key, equals, value = line.strip().partition("=")
            if equals and not key.startswith(("#", "[")):
                self._values.setdefault(key, []).append(value)

    def words(self, key: str) -> list[str]:
        """Every word of every value."""
        return [word for value in self._values.get(key, []) for word in value.split()]

    def one(self, key: str) -> str:
        """The last value."""
        return self._values[key][-1]

    def as_its_user(self, command: Sequence[str]) -> list[str]:
        """The command with the unit's user, group, capabilities and nothing else, by setpriv."""
        only = ["-all", *(f"+{name.removeprefix('CAP_').lower()}"
                          for name in self.words("AmbientCapabilities"))]  # fmt: skip
        bound = ["-all", *(f"+{name.removeprefix('CAP_').lower()}"
                           for name in self.words("CapabilityBoundingSet"))]  # fmt: skip
        return [
            *["setpriv", f"--reuid={self.one('User')}", f"--regid={self.one('Group')}"],
            "--init-groups",
            f"--inh-caps={','.join(only)}",
            f"--ambient-caps={','.join(only)}",
            f"--bounding-set={','.join(bound)}",
            *(["--no-new-privs"] if self.one("NoNewPrivileges") == "yes" else []),
            *command,
        ]

    def exec_start(self) -> list[str]:
        """The program and its arguments."""
        return shlex.split(self.one("ExecStart"))
