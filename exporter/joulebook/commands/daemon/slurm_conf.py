"""Read what matters of slurm.conf: hooks, nodes, how jobs are tracked.

Format: slurm.conf(5). Keys are case-insensitive; `Include` is followed.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

import msgspec

from joulebook.node.workloads.slurm.hostlist import expand
from joulebook.untrusted_files import read_named

_DEEPEST = 4
_HEAD_BYTES = 4096
_MOST_BYTES = 16 << 20
_OURS = "joulebook"
RETIRED = "Removed: does nothing until slurm.conf no longer names this directory."
"""The comment in the script that replaces a removed hook."""


class SlurmConf(msgspec.Struct, frozen=True):
    """The settings by lower-case key (a repeated key has several values), and the nodes."""

    path: Path
    values: dict[str, tuple[str, ...]]
    nodes: dict[str, str]
    """Node names, each with the host it runs on."""

    def first(self, key: str) -> str:
        """Return the value of a key, empty if it is not set."""
        return self.values.get(key.lower(), ("",))[0]

    def nodes_of(self, host: str) -> list[str]:
        """Return the nodes that run on a host."""
        return [node for node, on in self.nodes.items() if host in {node, on.partition(".")[0]}]


def read_slurm_conf(path: Path) -> SlurmConf:
    """Read the file and what it includes. Raises `ConfigError`."""
    values: dict[str, list[str]] = {}
    nodes: dict[str, str] = {}
    for line in _lines(path, 0):
        words = [word.partition("=") for word in line.split()]
        key, _, value = words[0]
        if key.lower() == "nodename":
            names = expand(value)
            settings = {k.lower(): v for k, _, v in words[1:]}
            hosts = expand(settings.get("nodehostname", value))
            hosts = hosts if len(hosts) == len(names) else hosts[:1] * len(names)
            nodes.update(zip(names, hosts, strict=True))
        else:
            # Values may contain blanks and equal signs: hooks with arguments, quoted names.
            name, _, rest = line.partition("=")
            values.setdefault(name.strip().lower(), []).append(rest.strip().strip('"'))
    return SlurmConf(path, {key: tuple(found) for key, found in values.items()}, nodes)


def _lines(path: Path, depth: int) -> Iterator[str]:
    text = read_named(path, _MOST_BYTES).decode(errors="replace").replace("\\\n", " ")
    for raw in text.splitlines():
        line = raw.partition("#")[0].strip()
        word, _, rest = line.partition(" ")
        if word.lower() == "include" and depth < _DEEPEST:
            # `/` keeps an absolute path as it is.
            yield from _lines(path.parent / rest.strip(), depth + 1)
        elif "=" in line:
            yield line


def hook_files(conf: SlurmConf, key: str) -> list[Path]:
    """Return the programs run by a hook (`Prolog`, `Epilog`, `TaskProlog`); values may be
    patterns.
    """
    found: list[Path] = []
    for value in conf.values.get(key.lower(), ()):
        for pattern in value.split(","):
            found += hook_pattern(conf, pattern)
    return found


def hook_pattern(conf: SlurmConf, pattern: str) -> list[Path]:
    """Expand one pattern; return itself if it matches nothing."""
    if not pattern.strip():
        return []
    place = str(conf.path.parent / pattern.strip())
    # glob and not Path.glob: the pattern is absolute.
    names = sorted(glob.glob(place)) or [place]  # noqa: PTH207
    return [Path(name) for name in names]


def is_ours(hook: Path) -> bool:
    """Return whether a hook is Joulebook's, a link to it, or a script that calls it."""
    try:
        if RETIRED.encode() in hook.read_bytes()[:_HEAD_BYTES]:
            return False
    except OSError:
        pass
    if _OURS in str(hook) or _OURS in str(hook.resolve()):
        return True
    try:
        with hook.open("rb") as file:
            return _OURS.encode() in file.read(_HEAD_BYTES).lower()
    except OSError:
        return False
