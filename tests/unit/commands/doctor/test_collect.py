"""What `joulebook doctor` says of collection."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
from tests.unit.lab.collected.nodes import NOVEMBER_S, Node

from joulebook.commands.doctor.checks import Site, Status
from joulebook.commands.doctor.daemon import COLLECTION_CHECKS
from joulebook.config import Config
from joulebook.config.lab import Collect
from joulebook.config.node import ServerSection
from joulebook.lab.collected import ingest
from joulebook.lab.collected.database import opened


def said(config: Config) -> list[tuple[Status, str]]:
    site = Site(config, Path("/none"))
    return [(each.status, each.found) for check in COLLECTION_CHECKS for each in check(site)]


def test_nothing_is_set() -> None:
    (only,) = said(Config())
    assert only[0] is Status.NONE
    assert "server.token_file is not set" in only[1]


@pytest.mark.parametrize(
    ("listen", "token", "status"),
    [
        (":9816", "0123456789abcdef", Status.OK),
        ("127.0.0.1:9816", "0123456789abcdef", Status.WARN),
        (":9816", "short", Status.FAIL),
    ],
)
def test_the_page_of_a_node(tmp_path: Path, listen: str, token: str, status: Status) -> None:
    (tmp_path / "token").write_text(token)
    server = ServerSection(listen=listen, token_file=str(tmp_path / "token"))
    assert said(msgspec.structs.replace(Config(), server=server))[0][0] is status


def test_a_collector_and_its_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Collect(url=f"sqlite://{tmp_path}/c.db", token_file=str(tmp_path / "none"))
    config = msgspec.structs.replace(Config(), collect=settings)
    found = said(config)[1:]
    assert [status for status, _ in found] == [Status.FAIL, Status.FAIL]
    assert "collect.token_file" in found[0][1]
    assert "no collected ledger at" in found[1][1]
    monkeypatch.setattr(time, "time", lambda: NOVEMBER_S + 3 * 86_400.0)
    (tmp_path / "none").write_text("0123456789abcdef")
    with opened(settings.url, create=True) as database:
        for name, when_s in (("n1", NOVEMBER_S), ("n2", NOVEMBER_S + 3 * 86_400)):
            node = Node(name, name[1] * 32)
            node.burn(when_s, 1)
            ingest.take(database, node.page(0), "t", int(time.time()))
    found = said(config)[1:]
    assert [status for status, _ in found] == [Status.OK, Status.WARN]
    assert "2 nodes" in found[0][1]
    assert found[1][1] == "node n1: collected up to 72.0 h ago"
