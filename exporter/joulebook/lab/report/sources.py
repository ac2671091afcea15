"""Reports from ledgers as files: this node's own, or copies of those of many nodes.

A source gives a data set of a stretch of time. It selects where its data is, so that a report on
one experiment of a year reads that experiment.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from joulebook.core.report.dataset import ReportData, Selection
from joulebook.core.report.parts import joined
from joulebook.errors import ConfigError
from joulebook.ledger.query import LedgerReader

FOREVER_S = 1 << 40
"""The end of a report that has none."""


class ReportSource(Protocol):
    """Where a report is from."""

    @property
    def name(self) -> str:
        """What people are shown: `not known from NAME`."""

    def account(self, since_s: int, until_s: int, selection: Selection) -> ReportData:
        """What was booked in the quarter hours of [since, until), UTC seconds.

        Raises a `JoulebookError` that says what to do.
        """


class NodeLedger(NamedTuple):
    """A ledger and the node that it is of: the file itself does not say."""

    node: str
    path: Path


def named(text: str) -> NodeLedger:
    """`n1=/copies/n1.db`, or a path alone: then the file's name, less its suffix, is the node's."""
    node, is_named, path = text.partition("=")
    if is_named and node and "/" not in node:
        return NodeLedger(node, Path(path))
    return NodeLedger(Path(text).stem, Path(text))


def own(path: str, node: str) -> NodeLedger:
    """The ledger of the machine that we run on, `node` being its configured name."""
    return NodeLedger(node or socket.gethostname().partition(".")[0], Path(path))


class LedgerSource:
    """The ledgers of one node or of many as one source."""

    def __init__(self, ledgers: Sequence[NodeLedger]) -> None:
        """Raises `ConfigError` if two are of the same node, whose energy would count twice."""
        seen: dict[str, Path] = {}
        for node, path in ledgers:
            if node in seen:
                raise ConfigError(
                    f"--ledger {path}: {seen[node]} is of node {node} too; "
                    f"name the nodes apart, as in --ledger {node}2={path}"
                )
            seen[node] = path
        self._ledgers = tuple(ledgers)

    @property
    def name(self) -> str:
        """What people are shown."""
        nodes = [each.node for each in self._ledgers]
        if len(nodes) == 1:
            return f"ledger of {nodes[0]}"
        return f"ledgers of {len(nodes)} nodes"

    def account(self, since_s: int, until_s: int, selection: Selection) -> ReportData:
        """What all of them booked.

        Raises `LedgerError`, and `ConfigError` if two are one ledger: its energy would count twice.
        """
        accounts = []
        seen: dict[str, Path] = {}
        for node, path in self._ledgers:
            with LedgerReader(path) as reader:
                twin = seen.setdefault(reader.ledger_id(), path)
                if twin is not path:
                    raise ConfigError(
                        f"--ledger {path}: is the same ledger as {twin}, or another copy of it: "
                        "give the newer one alone"
                    )
                accounts.append(reader.account(since_s, until_s, selection, node))
        return replace(joined(accounts), source=self.name)
