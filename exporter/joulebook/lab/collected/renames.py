"""Nodes that come back under another name with the ledger that they had: renamed, or lying."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import NamedTuple

from joulebook.core.ledger.export import PostingsPage
from joulebook.errors import InputError
from joulebook.lab.collected.database import Database

logger = logging.getLogger(__name__)


class Rename(NamedTuple):
    """A rename that was taken for one: names before and after, when (UTC seconds) and where."""

    number: int
    ledger_id: str
    seen_s: int
    cluster: str
    node: str
    new_cluster: str
    new_node: str
    target: str


def follow(
    database: Database,
    ledger: int,
    page: PostingsPage,
    target: str,
    now_s: int,
    targets: Collection[str],
) -> None:
    """Take the new name of a ledger's node over, or raise `InputError` (`wrong_ledger`).

    It is a rename where the ledger is at one of `targets` only: the one where it always was, or
    another one once that is no longer among them. Else a node could take another one's name.
    """
    ((cluster, node, before),) = database.rows(
        "SELECT cluster, node, target FROM ledgers WHERE id = ?", [ledger]
    )
    said = (
        f"{target}: is node {page.node!r} of cluster {page.cluster!r}, but has ledger "
        f"{page.ledger_id} of node {node!r} of cluster {cluster!r}"
    )
    new = (page.cluster, page.node)
    if before != target and before in targets:
        raise InputError(
            f"{said} at {before}, still among the targets: a copied disk (move its ledger away "
            f"to start a new one), or a renamed node (remove {before} from the targets)",
            reason="wrong_ledger",
        )
    if database.rows(
        "SELECT 1 FROM renames WHERE ledger = ? AND undone = 1 AND new_cluster = ?"
        " AND new_node = ?",
        [ledger, *new],
    ):
        raise InputError(
            f"{said}: that rename was undone by an administrator; move the ledger away on the "
            "node to start a new one",
            reason="wrong_ledger",
        )
    ((number,),) = database.rows("SELECT coalesce(max(id), 0) + 1 FROM renames")
    database.rows(
        "INSERT INTO renames VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)",
        [number, ledger, now_s, cluster, node, *new, target],
    )
    database.rows("UPDATE ledgers SET cluster = ?, node = ? WHERE id = ?", [*new, ledger])
    logger.warning(
        "%s: treated as a rename; if it is another node, run: joulebook collect --undo-rename %d",
        said, number,
    )  # fmt: skip


def known(database: Database) -> list[Rename]:
    """Return all renames that were not undone, the oldest first."""
    return [
        Rename(*row)
        for row in database.rows(
            "SELECT r.id, ledger_id, r.seen_s, r.cluster, r.node, new_cluster, new_node, r.target"
            " FROM renames r JOIN ledgers l ON l.id = r.ledger WHERE undone = 0 ORDER BY r.id"
        )
    ]


def undo(database: Database, number: int) -> None:
    """Restore a ledger's old name, and reject the new one from now on.

    Raises `InputError` if there is no such rename.
    """
    with database.transaction():
        found = database.rows(
            "SELECT ledger, cluster, node FROM renames WHERE id = ? AND undone = 0", [number]
        )
        if not found:
            raise InputError(
                f"no rename {number}: joulebook collect --check lists them", reason="unknown"
            )
        ((ledger, *name),) = found
        database.rows("UPDATE renames SET undone = 1 WHERE id = ?", [number])
        database.rows("UPDATE ledgers SET cluster = ?, node = ? WHERE id = ?", [*name, ledger])
