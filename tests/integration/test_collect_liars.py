"""Nodes that lie, beside a good one: each is refused by name, and the good one is collected."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.integration.collect_lab import TOKEN, CollectorProcess, LiveNode, collected, truth
from tests.integration.feed_stub import (
    Stub,
    Trouble,
    cut,
    drip,
    endless,
    hang,
    status,
    truncated,
)
from tests.unit.lab.collected.nodes import NOVEMBER_S, Node

Change = Callable[[dict[str, Any]], object]


def honest() -> dict[str, Any]:
    """A page that nothing is wrong with."""
    node = Node("liar", "c" * 32, "lab")
    node.label("1", "nlp", "ada", "bert")
    node.burn(NOVEMBER_S, 5_000, "1")
    node.burn(NOVEMBER_S + 900, 7_000)
    page: dict[str, Any] = json.loads(msgspec.json.encode(node.page(0)))
    return page


def put(*path: Any) -> Change:
    """Sets what is at a path of keys and indexes."""

    def change(page: dict[str, Any]) -> None:
        *way, last, value = path
        inner: Any = page
        for key in way:
            inner = inner[key]
        inner[last] = value

    return change


LIES = {
    "version": (put("v", 3), "has page version 3, this collector supports 1 to 2"),
    "ledger id": (put("ledger_id", "x'; DROP TABLE used"), "expected 16 to 64 hexadecimal digits"),
    "other since": (put("since", 7), "returned what follows 7, not 0"),
    "goes beyond": (put("next", 10**6), "continues at 1000000"),
    "stays": (
        lambda page: page.update(next=0, postings=[], rates=[], workloads=[]),
        "does not advance from 0",
    ),
    "numbers fall": (lambda page: page["postings"].reverse(), "not ascending"),
    "no such meter": (put("postings", 0, 2, 99), "of an unknown meter"),
    "no such workload": (put("postings", 0, 3, 99), "of an unknown workload"),
    "nobody's": (put("postings", 1, 4, ""), "or with neither"),
    "below zero": (put("postings", 0, 7, -1), "a posting of -1 uJ"),
    "too large": (put("postings", 0, 7, 2**63), "a posting of 9223372036854775808 uJ"),
    "no quarter": (put("postings", 0, 1, NOVEMBER_S + 1), "quarter hour"),
    "component": (put("meters", 0, 1, "soul"), "component 'soul' is unknown here"),
    "NUL": (put("workloads", 0, 5, "a\0b"), "control characters"),
    "long": (put("workloads", 0, 5, "a" * 2000), "more than 1024"),
    "float": (put("postings", 0, 7, 1.5), "no page: Expected `int`, got `float`"),
    "text": (put("postings", 0, 7, "1"), "no page: Expected `int`, got `str`"),
    "list": (put("postings", {}), "no page: "),
}


@pytest.fixture
def good(tmp_path: Path) -> Iterator[LiveNode]:
    node = LiveNode(tmp_path / "nodes", "good")
    node.tick()
    yield node
    node.close()


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub().running() as running:
        yield running


def test_lies(good: LiveNode, tmp_path: Path) -> None:
    """All of them in one run, each a target of its own, since a run costs a second."""
    url = f"sqlite://{tmp_path}/collected.db"
    stubs = []
    try:
        expected = {}
        for name, (lie, what) in LIES.items():
            page = honest()
            lie(page)
            stub = Stub()
            running = stub.running()
            running.__enter__()
            stubs.append(running)
            stub.json("/v1/postings", page)
            expected[stub.url] = (name, what)
        collector = CollectorProcess(
            tmp_path / "c", url, targets=[good.target, *expected], parallel=4
        )
        said = collector.run("collect", "--once")
        assert said.returncode == 1
        for target, (name, what) in expected.items():
            (line,) = [line for line in said.stderr.splitlines() if f"{target}: " in line]
            assert what in line, name
        assert collected(url) == truth([good])
        assert "1 of 19 targets collected" in said.stderr
    finally:
        for running in stubs:
            running.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"{", "no page"),
        (b"\xff\xfe", "no page"),
        (b"[" * 100_000, "no page"),
        (b" " * (17 * 2**20), "more than 16777216 bytes"),
    ],
    ids=["cut", "bytes", "deep", "huge"],
)
def test_garbage(good: LiveNode, stub: Stub, tmp_path: Path, body: bytes, what: str) -> None:
    url = f"sqlite://{tmp_path}/collected.db"
    stub.bodies["/v1/postings"] = body
    collector = CollectorProcess(tmp_path / "c", url, targets=[stub.url, good.target])
    said = collector.run("collect", "--once")
    assert said.returncode == 1
    assert re.search(f"{re.escape(stub.url)}.*{what}", said.stderr)
    assert collected(url) == truth([good])


@pytest.mark.parametrize(
    ("trouble", "what"),
    [
        (hang, "timed out"),
        (drip, "not finished after 3 s"),
        (lambda _: truncated, "cut off"),
        (lambda _: cut, "connection broken"),
        (lambda _: endless, "more than 16777216 bytes"),
        (lambda _: status(404), "server.token_file is not set there"),
        (lambda _: status(302, Location="http://elsewhere/"), "not followed"),
        (lambda _: status(503), "status 503"),
    ],
    ids=["hangs", "drips", "truncated", "cut", "endless", "404", "302", "503"],
)
def test_trouble(
    good: LiveNode, stub: Stub, tmp_path: Path, trouble: Callable[[Stub], Trouble], what: str
) -> None:
    url = f"sqlite://{tmp_path}/collected.db"
    stub.trouble = trouble(stub)
    collector = CollectorProcess(
        tmp_path / "c", url, targets=[stub.url, good.target], timeout_s=0.5
    )
    said = collector.run("collect", "--once")
    assert said.returncode == 1
    assert re.search(f"{re.escape(stub.url)}.*{what}", said.stderr), said.stderr
    assert collected(url) == truth([good])


def test_a_ledger_of_somebody_else_or_a_second_one_of_the_same_name(
    good: LiveNode, stub: Stub, tmp_path: Path
) -> None:
    url = f"sqlite://{tmp_path}/collected.db"
    collector = CollectorProcess(tmp_path / "c", url, targets=[good.target])
    assert collector.run("collect", "--once").returncode == 0
    import http.client

    connection = http.client.HTTPConnection(good.target, timeout=10)
    connection.request("GET", "/v1/postings", headers={"Authorization": f"Bearer {TOKEN}"})
    page = json.loads(connection.getresponse().read())
    connection.close()
    # Another node shows the ledger of this one.
    stub.json("/v1/postings", {**page, "node": "liar"})
    both = CollectorProcess(tmp_path / "c", url, targets=[good.target, stub.url])
    said = both.run("collect", "--once")
    assert said.returncode == 1
    assert f"{stub.url}: " in said.stderr
    assert collected(url) == truth([good])


def test_totals_that_fall(stub: Stub, tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/collected.db"
    page = honest()
    stub.json("/v1/postings", page)
    collector = CollectorProcess(tmp_path / "c", url, targets=[stub.url])
    assert collector.run("collect", "--once").returncode == 0
    before = collected(url)
    # The same row again, with a new number and less in it.
    last = page["last"] + 1
    row = [last, *page["postings"][0][1:7], 1, 0, 0]
    later = {**page, "since": page["last"], "next": last, "last": last, "postings": [row]}
    stub.json("/v1/postings", {**later, "rates": []})
    said = collector.run("collect", "--once")
    assert said.returncode == 1
    assert "totals never decrease" in said.stderr
    assert collected(url) == before
