"""Implement `joulebook doctor`: what this node can and cannot measure, why, and what to do."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from joulebook.commands.doctor import daemon, gpu, host, kubernetes, ledger, slurm
from joulebook.commands.doctor.checks import Check, Finding, Site, Status, fail
from joulebook.commands.shared.options import Options, command
from joulebook.commands.shared.text import several
from joulebook.config import DEFAULT_PATH, Config, load
from joulebook.core.sanitize import one_line
from joulebook.errors import ConfigError, JoulebookError
from joulebook.terminal import Screen, wrap

FAILED = 1

_STYLES = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "red", Status.NONE: "dim"}


class CheckGroup(NamedTuple):
    """A heading, and the checks under it."""

    title: str
    checks: tuple[Check, ...]


SECTIONS = (
    CheckGroup("Node", host.NODE_CHECKS),
    CheckGroup("GPUs", gpu.CHECKS),
    CheckGroup("Host and other GPUs", host.CHECKS),
    CheckGroup("SLURM", slurm.CHECKS),
    CheckGroup("Kubernetes", kubernetes.CHECKS),
    CheckGroup("Ledger", ledger.CHECKS),
    CheckGroup("Money and carbon", ledger.RATE_CHECKS),
    CheckGroup("Collection", daemon.COLLECTION_CHECKS),
    CheckGroup("Daemon", daemon.CHECKS),
)
"""All checks, in the order in which they are run and shown."""


def main(args: Options) -> int:
    """Run every check and print the findings; return 1 if any failed."""
    file = args.config or DEFAULT_PATH
    try:
        site = Site(load(args.config, os.environ), file)
    except ConfigError as error:
        site = Site(Config(), file, str(error))
    return show(site, Screen())


def show(site: Site, screen: Screen, sections: Sequence[CheckGroup] = SECTIONS) -> int:
    """Check a site, print the findings as they come, and return the exit status."""
    counts: Counter[Status] = Counter()
    for section in sections:
        screen.say(screen.paint(section.title, "bold"))
        for finding in _findings(site, section.checks):
            counts[finding.status] += 1
            for line in _lines(finding, screen):
                screen.say(line)
        screen.say()
    for line in wrap(_verdict(counts), screen.width):
        screen.say(line)
    return FAILED if counts[Status.FAIL] else 0


def _verdict(counts: Mapping[Status, int]) -> str:
    if counts[Status.FAIL]:
        return (
            f"{counts[Status.FAIL]} failed, {several(counts[Status.WARN], 'warning')}. Failures "
            "keep energy from being measured or booked correctly."
        )
    if counts[Status.WARN]:
        return f"Nothing failed, {several(counts[Status.WARN], 'warning')}."
    return "All is well."


def _findings(site: Site, checks: Sequence[Check]) -> Iterator[Finding]:
    for check in checks:
        try:
            yield from check(site)
        except (JoulebookError, OSError) as error:
            yield fail(f"{check.__name__}: {error}")
        except Exception as error:
            # One broken check must not hide the others.
            yield fail(f"{check.__name__} itself failed: {error!r}", "Report this as a bug.")


def _lines(finding: Finding, screen: Screen) -> Iterator[str]:
    label = f"  {finding.status:<6}"
    first, *rest = wrap(one_line(finding.found, 1000), screen.width, label)
    yield screen.paint(label, _STYLES[finding.status]) + first.removeprefix(label)
    yield from rest
    if finding.todo:
        yield from wrap(one_line(finding.todo, 1000), screen.width, " " * len(label) + "-> ")


@command()
def doctor(options: Options) -> int:
    """Check what this node can and cannot measure, why, and what to do about it."""
    return main(options)
