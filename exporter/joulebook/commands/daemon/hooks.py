"""Implement `joulebook hooks`: install Prolog and Epilog next to the site's own.

slurm.conf itself is not changed: it is one file for the whole cluster, usually not kept on a node.
The lines it needs are printed. Its format: slurm.conf(5).
"""

from __future__ import annotations

import fnmatch
import glob
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

import joulebook
from joulebook.commands.shared.options import FILE, Options, argument, command, option
from joulebook.config import load
from joulebook.errors import ConfigError
from joulebook.node.workloads.slurm.gres_conf import find_slurm_conf
from joulebook.node.workloads.slurm.hostlist import expand
from joulebook.untrusted_files import read_named

PACKAGED = Path("/usr/lib/joulebook/hooks")
SCRIPTS = {"Prolog": "prolog.sh", "Epilog": "epilog.sh"}
_NAMES = ("joulebook", "joulebook.sh", "50-joulebook", "50-joulebook.sh")


class HookStep(NamedTuple):
    """What was done or found, and the line that slurm.conf then needs (empty: none)."""

    said: str
    line: str = ""


def main(args: Options) -> int:
    """Install or remove the hooks; print what was done and what is left to do."""
    config = load(args.config, os.environ)
    path = args.slurm_conf or Path(config.tenants.slurm.slurm_conf or find_slurm_conf())
    try:
        conf = read_slurm_conf(path)
    except ConfigError as error:
        raise ConfigError(
            f"{error}; give its path with --slurm-conf (configless nodes keep "
            "it in /run/slurm/conf)"
        ) from None
    act = install if args.action == "install" else remove
    steps = [step for key in SCRIPTS for step in act(conf, key, scripts())]
    for step in steps:
        print(step.said)
    lines = [step.line for step in steps if step.line]
    if not lines:
        return 0
    if args.action == "install":
        print(
            f"\nNow write into {path}, on the controller and on every node, once this was run on "
            "every\nnode that reads it, those without a GPU too: SLURM drains nodes that lack the "
            "directory.\n"
        )
        print("\n".join(f"  {line}" for line in lines))
        print("\nthen: scontrol reconfigure")
    else:
        print(f"\nNow take out of {path}, on the controller and on every node:\n")
        print("\n".join(f"  {line}" for line in lines))
        print("\nthen: scontrol reconfigure; joulebook hooks remove (the rest, on every node)")
    return 0


def scripts() -> Path:
    """Return the directory of our hooks: the package's, else the one in the Python package."""
    return PACKAGED if PACKAGED.is_dir() else Path(joulebook.__file__).parent / "hooks"


def install(conf: SlurmConf, key: str, source: Path) -> Iterator[HookStep]:
    """Install one hook where SLURM runs it, too. Raises `ConfigError` if that cannot be written."""
    script = source / SCRIPTS[key]
    there = hook_files(conf, key)
    if ours := [file for file in there if is_ours(file) and file.exists()]:
        yield HookStep(f"{key}: {ours[0]} is already Joulebook's")
        return
    patterns = [
        Path(conf.path.parent, each.strip())
        for value in conf.values.get(key.lower(), ())
        for each in value.split(",")
        if "*" in each
    ]
    for pattern in patterns:
        for name in _NAMES:
            if fnmatch.fnmatch(name, pattern.name):
                _put(script, pattern.parent / name)
                yield HookStep(f"{key}: {pattern.parent / name} runs along with the existing ones")
                return
    directory = conf.path.parent / f"{key.lower()}.d"
    for file in there:
        # Linked under its own name: the site's hook keeps working and stays the site's.
        if file.exists() and file.parent != directory:
            _link(file, directory / file.name)
            yield HookStep(f"{key}: {directory / file.name} -> {file}")
    _put(script, directory / _NAMES[1])
    yield HookStep(f"{key}: {directory / _NAMES[1]}", f"{key}={directory}/*")


def remove(conf: SlurmConf, key: str, source: Path) -> Iterator[HookStep]:
    """Remove our hook from the directories that SLURM runs; the site's own stay."""
    directories = {file.parent for file in hook_files(conf, key)}
    directories.add(conf.path.parent / f"{key.lower()}.d")
    found = [
        directory / name
        for directory in sorted(directories)
        for name in _NAMES
        if os.path.lexists(directory / name)
    ]
    values = conf.values.get(key.lower(), ())
    for file in found:
        # SLURM drains a node if nothing matches a pattern, or if a file is missing.
        alone = [
            value
            for value in values
            for each in value.split(",")
            if (found_by := hook_pattern(conf, each)) and set(found_by) <= set(found)
            and file in found_by
        ]  # fmt: skip
        if alone:
            _retire(file)
            yield HookStep(f"{key}: {file} now does nothing", f"{key}={alone[0]}")
        else:
            file.unlink()
            yield HookStep(f"{key}: {file} removed")
    named = [value for value in values if str(source / SCRIPTS[key]) in value]
    if named:
        yield HookStep(f"{key}: still named in {conf.path}", f"{key}={shlex.join(named)}")
    elif not found:
        yield HookStep(f"{key}: nothing of Joulebook's")


def _retire(place: Path) -> None:
    """Leave a script that does nothing as long as slurm.conf names its directory."""
    temporary = place.with_name(f".{place.name}.new")
    try:
        temporary.write_text(f"#!/bin/sh\n# {RETIRED}\nexit 0\n")
        temporary.chmod(0o755)
        temporary.rename(place)
    except OSError as error:
        raise ConfigError(f"{place}: {error.strerror} (are you root?)") from None


def _put(script: Path, place: Path) -> None:
    """Link the hook, so that upgrades reach it; copy it if the original is not executable."""
    if os.access(script, os.X_OK):
        _link(script, place)
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(script, place)
        place.chmod(0o755)
    except OSError as error:
        raise ConfigError(f"{place}: {error.strerror} (are you root?)") from None


def _link(target: Path, place: Path) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f".{place.name}.new")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.rename(place)
    except OSError as error:
        raise ConfigError(f"{place}: {error.strerror} (are you root?)") from None


@command()
@argument("action", type=click.Choice(["install", "remove"]))
@option(
    "--slurm-conf",
    type=FILE,
    metavar="FILE",
    help="Path of slurm.conf, which is only read (default: SLURM's own).",
)
def hooks(options: Options) -> int:
    """Install Joulebook's Prolog and Epilog next to the site's own, or remove them."""
    return main(options)


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
    """Read the file and what it includes. Raises `OSError`."""
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
