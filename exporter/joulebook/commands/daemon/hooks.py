"""Implement `joulebook hooks`: install Prolog and Epilog next to the site's own.

slurm.conf itself is not changed: it is one file for the whole cluster, usually not kept on a node.
The lines it needs are printed.
"""

from __future__ import annotations

import fnmatch
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

import joulebook
from joulebook.commands.daemon.slurm_conf import (
    RETIRED,
    SlurmConf,
    hook_files,
    hook_pattern,
    is_ours,
    read_slurm_conf,
)
from joulebook.commands.shared.options import FILE, Options, argument, command, option
from joulebook.config import load
from joulebook.errors import ConfigError
from joulebook.node.workloads.slurm.gres_conf import find_slurm_conf

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
