"""Reports from ledgers as files: this node's own, or copies of those of many nodes.

A source gives a data set of a stretch of time. It selects where its data is, so that a report on
one experiment of a year reads that experiment.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from joulebook.config import Config
from joulebook.core.evidence import ZERO
from joulebook.core.report.dataset import ReportData, Selection
from joulebook.core.report.parts import joined
from joulebook.core.report.runs import WorkloadTotals
from joulebook.errors import ConfigError
from joulebook.ledger import report_query
from joulebook.ledger.query import LedgerReader

FOREVER_S = 1 << 40
"""The end of a report that has none."""


class ReportSource(Protocol):
    """Where a report is from."""

    @property
    def name(self) -> str:
        """What people are shown: `not known from NAME`."""

    def account(self, since_s: int, until_s: int, selection: Selection) -> ReportData:
        """Return the data of the quarter hours in [since, until), UTC seconds.

        Raises a `JoulebookError`.
        """


class NodeLedger(NamedTuple):
    """A ledger, and its node and cluster, which the file itself does not contain."""

    node: str
    path: Path
    cluster: str = ""


def named(text: str) -> NodeLedger:
    """Read `n1=/copies/n1.db`, `cluster/n1=...`, or a path alone: then its name is the node's."""
    name, is_named, path = text.partition("=")
    cluster, _, node = name.rpartition("/")
    is_path = name.startswith("/") or "/" in cluster or cluster in {".", ".."}
    if is_named and node and not is_path:
        return NodeLedger(node, Path(path), cluster)
    return NodeLedger(Path(text).stem, Path(text))


def own(config: Config) -> NodeLedger:
    """The ledger of the machine that we run on."""
    return NodeLedger(config.node_name(), Path(config.ledger.path))


class LedgerSource:
    """The ledgers of one node or of many as one source."""

    def __init__(self, ledgers: Sequence[NodeLedger]) -> None:
        """Raises `ConfigError` if two are of the same node, whose energy would count twice."""
        clusters = {
            each.node: {e.cluster for e in ledgers if e.node == each.node} for each in ledgers
        }
        seen: dict[str, Path] = {}
        self._ledgers: list[NodeLedger] = []
        for each in ledgers:
            # Two clusters may have a node of one name.
            is_twin = len(clusters[each.node]) > 1
            node = f"{each.cluster}/{each.node}" if is_twin else each.node
            if node in seen:
                raise ConfigError(
                    f"--ledger {each.path}: {seen[node]} is also of node {node}; give the nodes "
                    f"different names, as in --ledger {node}2={each.path}"
                )
            seen[node] = each.path
            self._ledgers.append(each._replace(node=node))

    @property
    def name(self) -> str:
        """What people are shown."""
        nodes = [each.node for each in self._ledgers]
        if len(nodes) == 1:
            return f"ledger of {nodes[0]}"
        return f"ledgers of {len(nodes)} nodes"

    def account(self, since_s: int, until_s: int, selection: Selection) -> ReportData:
        """Return what all of them booked.

        Raises `LedgerError`, and `ConfigError` if two are one ledger: its energy would count twice.
        """
        accounts = []
        seen: dict[str, Path] = {}
        for node, path, cluster in self._ledgers:
            with LedgerReader(path) as reader:
                twin = seen.setdefault(reader.ledger_id(), path)
                if twin is not path:
                    raise ConfigError(
                        f"--ledger {path}: is the same ledger as {twin}, or another copy of it: "
                        "give only the newer one"
                    )
                found = report_query.account(reader, since_s, until_s, selection, node)
            accounts.append(_of_cluster(found, cluster, selection))
        whole = joined(accounts) if len(accounts) > 1 else accounts[0]
        return replace(whole, source=self.name)

    def unbooked(self, selection: Selection) -> list[WorkloadTotals]:
        """Return what is selected and known, and nothing was booked to. Raises `LedgerError`."""
        found = []
        for node, path, _ in self._ledgers:
            with LedgerReader(path) as reader:
                found += [
                    WorkloadTotals(each, ZERO, {}, {}, {}, {}, None, None, nodes=(node,))
                    for each in report_query.workloads(reader, selection)
                ]
        return found


def _of_cluster(data: ReportData, cluster: str, selection: Selection) -> ReportData:
    """Say of which cluster a node's workloads are; only those of clusters that are asked for."""
    workloads = {
        key: replace(each, cluster=cluster or each.of_cluster)
        for key, each in data.workloads.items()
    }
    if not selection.clusters:
        return replace(data, workloads=workloads)
    kept = {key: each for key, each in workloads.items() if selection.takes(each)}
    return replace(
        data,
        workloads=kept,
        postings=tuple(row for row in data.postings if row.subject in kept),
        charges=tuple(row for row in data.charges if row.subject in kept),
    )
