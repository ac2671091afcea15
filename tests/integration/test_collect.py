"""The collector on real servers, real ledgers and a real PostgreSQL: nothing is lost, ever."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.integration import postgresql as pg
from tests.integration.collect_lab import (
    CollectorProcess,
    LiveNode,
    busy,
    collected,
    copy,
    truth,
    until,
)
from tests.integration.test_server import MUTUAL, TLS, renew, users, web
from tests.ports import free_port

from joulebook.lab.collected import renames
from joulebook.lab.collected.database import opened
from joulebook.ledger.query import LedgerReader


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[LiveNode]]:
    """Three nodes, with something booked."""
    with contextlib.ExitStack() as stack:
        made = [LiveNode(tmp_path / "nodes", f"n{i}") for i in range(3)]
        for node in made:
            stack.callback(node.close)
            node.tick()
        yield made


def balanced(collector: CollectorProcess) -> None:
    checked = collector.run("collect", "--check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "balances are exact" in checked.stdout


def test_postgresql_is_killed_and_the_collector_too_under_load(
    nodes: list[LiveNode], tmp_path: Path
) -> None:
    chance = random.Random(5)
    with pg.running() as server:
        url = server.new()
        collector = CollectorProcess(tmp_path / "c", url, targets=[n.target for n in nodes])
        collector.start()
        try:
            with busy(nodes):
                until("the first rows", lambda: quietly(url))
                for _ in range(3):
                    time.sleep(chance.uniform(0.5, 1.5))
                    server.kill()
                    time.sleep(chance.uniform(0.2, 1.0))
                    server.start()
                    time.sleep(chance.uniform(0.2, 1.0))
                    collector.kill()
                    collector.start()
                    time.sleep(chance.uniform(0.5, 1.5))
                    server.stop()
                    server.start()
                # An outage that one collector lives through from begin to end.
                collector.kill()
                said = len(collector.log)
                collector.start()
                server.stop()
                until("an outage", lambda: "nodes keep what was not" in collector.log[said:])
                server.start()
                until("its end", lambda: "is writable again" in collector.log[said:])
                nodes[0].down()
                time.sleep(1)
                nodes[0].up()
            until("all to be collected", lambda: collected(url) == truth(nodes))
            assert collector.stop() == 0
            balanced(collector)
        finally:
            if collector.process:
                collector.kill()
        assert "nodes keep what was not collected" in collector.log
        assert "is writable again" in collector.log


def test_of_two_lab_servers_on_one_ledger_one_collects_and_the_other_takes_over(
    nodes: list[LiveNode], tmp_path: Path
) -> None:
    """Under load: one is killed, comes back, and PostgreSQL goes away and comes back."""
    targets = [node.target for node in nodes]

    def active(each: CollectorProcess) -> float | None:
        return each.value("joulebook_collect_active")

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(pg.running())
        url = server.new()
        both = [
            CollectorProcess(
                tmp_path / f"c{i}", url, f"127.0.0.1:{free_port()}", command="lab", targets=targets
            )
            for i in range(2)
        ]
        for each in both:
            each.start()
            stack.callback(ended, each)
        with busy(nodes):
            until("one of them to collect", lambda: 1 in map(active, both) and quietly(url))
            until("both to know", lambda: set(map(active, both)) == {0, 1})
            first, second = sorted(both, key=lambda each: -(active(each) or 0))
            assert "standing by" in second.log
            assert second.value("joulebook_collect_pages_total") == 0
            first.kill()
            until("the other to take over", lambda: active(second) == 1)
            first.run("collect", "--once")  # By hand, it may write at the same time.
            first.start()
            until("the first to stand by", lambda: active(first) == 0)
            server.kill()
            for each in both:
                status, said = each.page()
                assert (status, "cannot be reached" in said) == (503, True)
            server.start()
            until("one of them to collect again", lambda: set(map(active, both)) == {0, 1})
            assert {each.page()[0] for each in both} == {401}
        until("all to be collected", lambda: collected(url) == truth(nodes))
        balanced(first)
        for each in both:
            assert each.stop() == 0
            assert "Traceback" not in each.log


def ended(collector: CollectorProcess) -> None:
    if collector.process is not None:
        collector.kill()


def quietly(url: str) -> bool:
    from joulebook.errors import LedgerError

    try:
        return collected(url)[0] > 0
    except LedgerError:
        return False


@pytest.mark.parametrize(
    "runs", [6, pytest.param(1000, marks=[pytest.mark.nightly, pytest.mark.timeout(7200)])]
)
def test_no_run_ends_by_a_signal(nodes: list[LiveNode], tmp_path: Path, runs: int) -> None:
    """Three threads are the first to decode a page, in each process again."""
    targets = [node.target for node in nodes]
    for run in range(runs):
        url = f"sqlite://{tmp_path}/{run}.db"
        done = CollectorProcess(tmp_path / str(run), url, targets=targets).run("collect", "--once")
        assert done.returncode == 0, done.stderr
        assert collected(url) == truth(nodes)


def test_killed_at_any_point_it_goes_on_from_there(nodes: list[LiveNode], tmp_path: Path) -> None:
    chance = random.Random(7)
    url = f"sqlite://{tmp_path}/collected.db"
    collector = CollectorProcess(tmp_path / "c", url, targets=[n.target for n in nodes])
    for _ in range(60):
        for node in nodes:
            node.tick()
    for _ in range(8):
        collector.start("--once")
        time.sleep(chance.uniform(0.3, 1.2))
        collector.kill()
        for node in nodes:
            node.tick()
    done = collector.run("collect", "--once")
    assert done.returncode == 0, done.stderr
    assert collected(url) == truth(nodes)
    balanced(collector)


def test_killed_while_a_node_is_renamed_it_goes_on_as_one_node(
    nodes: list[LiveNode], tmp_path: Path
) -> None:
    chance = random.Random(11)
    url = f"sqlite://{tmp_path}/collected.db"

    def collector() -> CollectorProcess:
        return CollectorProcess(tmp_path / "c", url, targets=[n.target for n in nodes])

    assert collector().run("collect", "--once").returncode == 0
    for name in ("n7", "n8"):
        for _ in range(40):
            nodes[0].tick()
        nodes[0].rename(name)
        for _ in range(4):
            killed = collector()
            killed.start("--once")
            time.sleep(chance.uniform(0.2, 1.2))
            killed.kill()
            nodes[0].tick()
    done = collector().run("collect", "--once")
    assert done.returncode == 0, done.stderr
    assert collected(url) == truth(nodes)
    balanced(collector())
    with opened(url) as database:
        names = database.rows("SELECT node FROM ledgers ORDER BY node")
        found = [(each.node, each.new_node) for each in renames.known(database)]
    assert names == [("n1",), ("n2",), ("n8",)]
    assert found in ([("n0", "n7"), ("n7", "n8")], [("n0", "n8")])


def test_a_ledger_that_began_anew_is_another_one_of_the_node_and_age_takes_nothing_away(
    nodes: list[LiveNode], tmp_path: Path
) -> None:
    url = f"sqlite://{tmp_path}/collected.db"
    collector = CollectorProcess(tmp_path / "c", url, targets=[n.target for n in nodes])
    assert collector.run("collect", "--once").returncode == 0
    nodes[0].begin_anew()
    nodes[0].tick()
    # Two days later the node lets go of what is older than one.
    nodes[1].tick(2 * 86_400)
    nodes[1].tick(7200)
    with LedgerReader(nodes[1].path) as reader:
        assert all(each.expired_uj > 0 for each in reader.balance_check())
    assert collector.run("collect", "--once").returncode == 0
    assert collected(url) == truth(nodes)
    with opened(url) as database:
        ledgers = database.rows("SELECT node, count(*) FROM ledgers GROUP BY node ORDER BY node")
    assert ledgers == [("n0", 2), ("n1", 1), ("n2", 1)]
    balanced(collector)


def test_a_ledger_restored_from_a_copy_is_told_and_harms_nobody(
    nodes: list[LiveNode], tmp_path: Path
) -> None:
    url = f"sqlite://{tmp_path}/collected.db"
    collector = CollectorProcess(tmp_path / "c", url, targets=[n.target for n in nodes])
    copy(nodes[0].path, tmp_path / "copy.db")
    for _ in range(20):
        nodes[0].tick()
    assert collector.run("collect", "--once").returncode == 0
    before = collected(url)
    nodes[0]._store.close()
    copy(tmp_path / "copy.db", nodes[0].path)
    nodes[1].tick()
    said = collector.run("collect", "--once")
    nodes[0]._begin()
    assert said.returncode == 1
    assert f"http://{nodes[0].target}: its ledger has gone back" in said.stderr
    assert collected(url)[0] > before[0]


def test_tls_client_certificate_token_and_its_rotation(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    renew(tmp_path, authority)
    client = authority.issue_cert("collector")
    client.private_key_pem.write_to_path(tmp_path / "client.key")
    client.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    node = LiveNode(tmp_path / "nodes", "n0", web(tmp_path, MUTUAL))
    node.tick()
    url = f"sqlite://{tmp_path}/collected.db"
    ca = str(tmp_path / "ca.pem")
    keys: dict[str, Any] = {"targets": [node.target], "scheme": "https", "ca_file": ca}
    mine = {"cert_file": str(tmp_path / "client.pem"), "key_file": str(tmp_path / "client.key")}
    try:
        stranger = CollectorProcess(tmp_path / "s", url, **keys)
        said = stranger.run("collect", "--once")
        assert said.returncode == 1
        assert f"https://{node.target}/v1/postings: " in said.stderr
        collector = CollectorProcess(tmp_path / "c", url, **keys, **mine)
        assert collector.run("collect", "--once").returncode == 0
        assert collected(url) == truth([node])
        # The token expires on the node, and is replaced at the collector while it runs.
        (tmp_path / "nodes/token").write_text("a-new-token-0123456789")
        node.tick()
        collector.start()
        until("the refusal", lambda: "the key was rejected (401)" in collector.log)
        (tmp_path / "c/collector-token").write_text("a-new-token-0123456789")
        until("the rest", lambda: collected(url) == truth([node]))
        assert collector.stop() == 0
        assert "0123456789" not in collector.log
    finally:
        node.close()


def test_one_certificate_for_all_daemons_that_are_found_by_address(tmp_path: Path) -> None:
    """As in Kubernetes: it is for the name of their Service, and for no address."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    service = authority.issue_cert("joulebook.energy.svc")
    service.private_key_pem.write_to_path(tmp_path / "key.pem")
    service.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    node = LiveNode(tmp_path / "nodes", "n0", web(tmp_path, TLS))
    node.tick()
    url = f"sqlite://{tmp_path}/collected.db"
    ca = str(tmp_path / "ca.pem")
    keys: dict[str, Any] = {"targets": [node.target], "scheme": "https", "ca_file": ca}
    try:
        for name, status in (("", 1), ("joulebook.other.svc", 1), ("joulebook.energy.svc", 0)):
            collector = CollectorProcess(tmp_path / "c", url, **keys, server_name=name)
            said = collector.run("collect", "--once")
            assert said.returncode == status, said.stderr
            assert ("TLS failed" in said.stderr + collector.log) is bool(status)
        assert collected(url) == truth([node])
    finally:
        node.close()


def test_a_password_and_the_token_beside_it(tmp_path: Path) -> None:
    node = LiveNode(tmp_path / "nodes", "n0", web(tmp_path, users("pw")))
    node.tick()
    url = f"sqlite://{tmp_path}/collected.db"
    password = tmp_path / "password"
    password.write_text("wrong")
    keys: dict[str, Any] = {"targets": [node.target], "user": "ada", "password_file": str(password)}
    collector = CollectorProcess(tmp_path / "c", url, **keys)
    try:
        # The token is what opens the page; the password is for whoever stands before it.
        assert collector.run("collect", "--once").returncode == 0
        assert collected(url) == truth([node])
        password.write_text("pw")
        (tmp_path / "c/collector-token").write_text("another-token-0123456789")
        said = collector.run("collect", "--once")
        assert said.returncode == 1
        assert "the key was rejected (401)" in said.stderr
    finally:
        node.close()
