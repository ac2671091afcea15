"""Tokens in the collected ledger, joined with what nodes booked: models and idle are the card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.scale import scaled
from tests.unit.lab.collected.nodes import NOVEMBER_S, Node

from joulebook.core.ledger.export import MeterRow
from joulebook.core.money.amounts import Exact
from joulebook.core.report.serving import CounterReading, Produced
from joulebook.lab.collected import bills, compact, ingest, served, served_query, tokens
from joulebook.lab.collected.database import Database, connect
from joulebook.lab.collected.tokens import ServerReading, ServingWorkload
from joulebook.units import NS_PER_S

T = NOVEMBER_S + 10 * 86_400
NOW_S = T + 3600
P, OUT, R = Produced.PROMPT, Produced.OUTPUT, Produced.REQUESTS
PODS = ("llama.01234567", "qwen.89abcdef")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A fresh collected ledger."""
    with connect(f"sqlite://{tmp_path}/all.db", create=True) as made:
        yield made


def node() -> Node:
    """A node with one card that two servers share, for a quarter hour."""
    made = Node("n1", "a" * 32)
    for pod in PODS:
        made.label(
            pod, "nlp", "", pod.partition(".")[0], scheduler="kubernetes",
            started_utc_ns=T * NS_PER_S,
        )  # fmt: skip
    return made


def collect(database: Database, made: Node, booked_to_s: int = NOW_S) -> None:
    """Collect all that a node has."""
    made.booked_to_s = booked_to_s
    since = tokens_position(database, made)
    assert ingest.take(database, made.page(since), "n1", NOW_S) is not None


def tokens_position(database: Database, made: Node) -> int:
    known = ingest.places(database).get(("", made.name))
    return known[0].position if known else 0


def workload(database: Database, pod: str) -> ServingWorkload:
    return tokens.running(database, [(pod, "")], NOW_S)[pod, ""]


def read(
    database: Database,
    pod: str,
    when_s: int,
    models: Mapping[str, Mapping[Produced, int]],
    target: str = "http://10.0.0.1:8000/metrics",
    most: int = 20,
) -> int:
    """Book one reading of a server."""
    made = {
        name: {kind: CounterReading(count, when_s) for kind, count in counts.items()}
        for name, counts in models.items()
    }
    return tokens.book(database, [ServerReading(workload(database, pod), target, made)], most)


def totals(database: Database) -> dict[tuple[str, str, str, int], Exact]:
    return {
        (experiment, name, item, idle): Exact(*parts)
        for experiment, name, item, idle, *parts in database.rows(
            "SELECT experiment, model_name, item, idle, whole, nano, rest FROM serving_totals"
        )
    }


def joined_uj(database: Database, idle: int | None = None) -> int:
    which = "" if idle is None else f" AND idle = {idle}"
    ((found,),) = database.rows(
        f"SELECT coalesce(sum(whole), 0) FROM served WHERE item IN ('gpu', 'host'){which}"
    )
    return int(found)


def test_tokens_are_counted_between_readings_and_once(database: Database) -> None:
    collect(database, node())
    llama = PODS[0]
    read(database, llama, T, {"m": {P: 1000, OUT: 100}})
    assert database.rows("SELECT * FROM tokens") == []  # when these were made is not known
    read(database, llama, T + 60, {"m": {P: 1600, OUT: 150}})
    # A second lab server read the same a moment before.
    read(database, llama, T + 59, {"m": {P: 1590, OUT: 149}})
    # The server restarts; a model appears; one that it does not count stays absent.
    read(database, llama, T + 120, {"m": {P: 7, OUT: 5}, "lora": {OUT: 3}})
    assert database.rows(
        "SELECT quarter_s, account, experiment, model_name, kind, tokens FROM tokens ORDER BY 4, 5"
    ) == [
        (T, "nlp", "llama", "lora", "output", 3),
        (T, "nlp", "llama", "m", "output", 55),
        (T, "nlp", "llama", "m", "prompt", 607),
    ]
    assert totals(database)["llama", "m", "prompt", 0] == Exact(607)


def test_a_workload_is_read_in_one_way_at_a_time(database: Database) -> None:
    """What Prometheus has read meanwhile is not counted again by the next direct reading."""
    collect(database, node())
    llama = PODS[0]
    read(database, llama, T, {"m": {OUT: 100}})
    read(database, llama, T + 60, {"m": {OUT: 100}}, target=tokens.PROMETHEUS)
    read(database, llama, T + 120, {"m": {OUT: 150}}, target=tokens.PROMETHEUS)
    read(database, llama, T + 180, {"m": {OUT: 150}})
    read(database, llama, T + 240, {"m": {OUT: 151}})
    assert totals(database)["llama", "m", "output", 0] == Exact(51)


def test_two_servers_of_a_workload_are_added_up(database: Database) -> None:
    collect(database, node())
    for when_s, count in ((T, 10), (T + 60, 30)):
        for port in (8000, 8001):
            read(database, PODS[0], when_s, {"m": {OUT: count}}, f"http://10.0.0.1:{port}/metrics")
    assert totals(database)["llama", "m", "output", 0] == Exact(40)


def test_models_of_a_workload_and_of_an_experiment_are_bounded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect(database, node())
    many = {f"m{n}": {OUT: n} for n in range(10)}
    assert read(database, PODS[0], T, many, most=4) == 6
    assert read(database, PODS[0], T + 60, many, most=4) == 6
    assert database.rows("SELECT count(DISTINCT model_name) FROM serving_counters") == [(4,)]
    monkeypatch.setattr(tokens, "MOST_MODELS", 2)
    read(database, PODS[1], T, {"x": {OUT: 1}}, most=9)
    read(database, PODS[1], T + 60, {name: {OUT: 5} for name in "abcx"}, most=9)
    exposed = {name: each for (of, name, *_), each in totals(database).items() if of == "qwen"}
    assert exposed == {"x": Exact(4), "a": Exact(5), tokens.OVERFLOW: Exact(10)}


@settings(
    max_examples=scaled(8),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.tuples(st.integers(1, 10**12), st.integers(0, 10**12), st.integers(0, 10**6)),
        min_size=2, max_size=2,
    ),
    st.integers(0, 10**12),
    st.integers(0, 10**6),
)  # fmt: skip
def test_models_and_idle_are_the_card(
    tmp_path_factory: pytest.TempPathFactory,
    parts: list[tuple[int, int, int]],
    unallocated_uj: int,
    of_adapter: int,
) -> None:
    """Of each pod: its energy, its idle part, and the tokens it made; to the microjoule."""
    made = node()
    card_uj = unallocated_uj
    for pod, (energy_uj, idle, _) in zip(PODS, parts, strict=True):
        idle_uj = min(idle, energy_uj)
        card_uj += energy_uj
        made.burn(T, energy_uj, pod, Exact(0, energy_uj, 3), 900 * NS_PER_S)
        who = made.workloads[pod].id
        row = made.postings[T, who, ""]
        made.postings[T, who, ""] = msgspec.structs.replace(row, idle_uj=idle_uj)
    made.burn(T, unallocated_uj)
    folder = tmp_path_factory.mktemp("card")
    with connect(f"sqlite://{folder}/all.db", create=True) as database:
        collect(database, made)
        for pod, (_, _, count) in zip(PODS, parts, strict=True):
            read(database, pod, T, {"m": {P: 0, OUT: 0}, "adapter": {OUT: 0}})
            read(database, pod, T + 900, {"m": {P: count, OUT: 0}, "adapter": {OUT: of_adapter}})
        served.settle(database, NOW_S)
        ((remainder_uj,),) = database.rows("SELECT sum(energy_uj) FROM postings WHERE workload = 0")
        assert joined_uj(database) + remainder_uj == card_uj
        idle_uj = sum(
            min(idle, energy) if count or of_adapter else energy for energy, idle, count in parts
        )
        assert joined_uj(database, idle=1) == idle_uj
        # The same for money, and what is exposed is what was joined.
        atoms = sum(
            Exact(*row).atoms
            for row in database.rows(
                "SELECT whole, nano, rest FROM served WHERE item = 'electricity'"
            )
        )
        assert atoms == sum(Exact(0, energy, 3).atoms for energy, *_ in parts)
        exposed = totals(database)
        assert joined_uj(database) == sum(
            each.whole for (*_, item, _), each in exposed.items() if item in served_query.ENERGY
        )
        assert served.settle(database, NOW_S) == 0  # nothing is joined twice


def test_a_quarter_hour_waits_for_its_nodes_and_follows_their_corrections(
    database: Database,
) -> None:
    made = node()
    llama = PODS[0]
    made.burn(T, 900_000, llama)
    collect(database, made, booked_to_s=T + 899)
    read(database, llama, T, {"m": {OUT: 0}})
    read(database, llama, T + 900, {"m": {OUT: 10}})
    assert served.settle(database, NOW_S) == 0
    collect(database, made, booked_to_s=T + 900)
    assert served.settle(database, NOW_S) == 1
    assert totals(database)["llama", "m", "gpu", 0] == Exact(900_000)
    made.burn(T, 100_000, llama)  # a late row
    collect(database, made)
    assert served.settle(database, NOW_S) == 1
    assert totals(database)["llama", "m", "gpu", 0] == Exact(1_000_000)
    assert joined_uj(database) == 1_000_000


def test_a_phase_that_a_server_only_does_is_kept(database: Database) -> None:
    made = node()
    made.burn(T, 5_000_000, PODS[0])
    made.burn(T, 7_000_000, PODS[1])
    collect(database, made)
    for when_s, prefill, decode in (
        (T, {P: 0, OUT: 0, R: 0}, {P: 0, OUT: 0}),
        (T + 900, {P: 800, OUT: 4, R: 4}, {P: 0, OUT: 90}),
    ):
        read(database, PODS[0], when_s, {"m": prefill})
        read(database, PODS[1], when_s, {"m": decode})
    served.settle(database, NOW_S)
    assert {
        (of, item): each.whole
        for (of, _, item, _), each in totals(database).items()
        if item.startswith(("prefill", "decode"))
    } == {
        ("llama", "prefill"): 5_000_000, ("llama", "prefill_tokens"): 800,
        ("qwen", "decode"): 7_000_000, ("qwen", "decode_tokens"): 90,
    }  # fmt: skip


def test_pods_are_found_by_namespace_and_name(database: Database) -> None:
    collect(database, node())
    found = tokens.running_pods(
        database, [("nlp", "llama"), ("vision", "llama"), ("nlp", "llam"), ("nlp", "x'--")], NOW_S
    )
    assert {pod: each.experiment for pod, each in found.items()} == {("nlp", "llama"): "llama"}


def test_a_job_on_two_nodes_is_one_server(database: Database) -> None:
    """The tokens are those of its first node, the energy that of both."""
    for name, energy_uj in (("n1", 3_000_000), ("n2", 4_000_000)):
        made = Node(name, name[-1] * 32)
        made.label("101", "nlp", "ada", "llama", started_utc_ns=T * NS_PER_S, scheduler_start_s=T)
        made.burn(T, energy_uj, "101")
        collect(database, made)
    read(database, "101", T, {"m": {OUT: 0}})
    read(database, "101", T + 900, {"m": {OUT: 10}})
    served.settle(database, NOW_S)
    assert joined_uj(database) == 7_000_000


def test_replicas_add_up(database: Database) -> None:
    """Two pods of one experiment, of which one restarts."""
    made = Node("n1", "a" * 32)
    for pod in PODS:
        made.label(pod, "nlp", "", "chat", scheduler="kubernetes", started_utc_ns=T * NS_PER_S)
        made.burn(T, 1_000_000, pod)
    collect(database, made)
    for when_s, counts in ((T, (10, 50)), (T + 60, (30, 5)), (T + 900, (40, 6))):
        for pod, count in zip(PODS, counts, strict=True):
            read(database, pod, when_s, {"m": {OUT: count}})
    served.settle(database, NOW_S)
    (found,) = served_query.models(database, (T, T + 900))
    assert found.counts == {OUT: 30 + 6}
    assert found.energy_uj == {"gpu": 2_000_000}
    assert found.per_thousand(found.active_uj, OUT) == 55_555_556


def test_months_that_are_days_stay_as_they_were_joined(database: Database) -> None:
    made = Node("n1", "a" * 32)
    day_s = NOVEMBER_S - 10 * 86_400
    made.label("101", "nlp", "ada", "chat", started_utc_ns=day_s * NS_PER_S)
    for quarter in range(4):
        made.burn(day_s + 900 * quarter, 1_000_000 + quarter, "101")
    collect(database, made)
    for quarter in range(5):
        read(database, "101", day_s + 900 * quarter, {"m": {OUT: 10 * min(quarter, 3)}})
    wide_s = 35 * 86_400
    assert served.settle(database, NOW_S, wide_s) == 4
    before = served_query.models(database, (day_s, NOVEMBER_S))
    bills.close(database, 202610, "test", NOW_S)
    assert [each.ledgers for each in compact.compact(database, NOW_S)] == [1]
    assert served.settle(database, NOW_S, wide_s) == 0
    assert served_query.models(database, (day_s, NOVEMBER_S)) == before
    assert before[0].idle_uj == {"gpu": 1_000_003}


def test_energy_of_the_host_is_in_it_where_it_is_measured(database: Database) -> None:
    """CPU and memory of the server's node, which have no idle part of their own."""
    made = node()
    made.burn(T, 9_000_000, PODS[0])
    made.booked_to_s = NOW_S
    page = made.page(0)
    (row,) = page.postings
    hosts = ((2, "cpu", 700_000), (3, "dram", 40_000))
    page = msgspec.structs.replace(
        page,
        meters=(*page.meters, *(MeterRow(n, name, name, "", uj, 0) for n, name, uj in hosts)),
        postings=(
            row,
            *(
                msgspec.structs.replace(row, seq=row.seq + n, meter_id=n, energy_uj=uj)
                for n, _, uj in hosts
            ),
        ),
        next=page.last + 3,
        last=page.last + 3,
    )
    assert ingest.take(database, page, "n1", NOW_S) is not None
    for when_s, count in ((T, 0), (T + 900, 370)):
        read(database, PODS[0], when_s, {"m": {OUT: count}})
    served.settle(database, NOW_S)
    (found,) = served_query.models(database, (T, T + 900))
    assert found.energy_uj == {"gpu": 9_000_000, "host": 740_000}
    assert found.per_thousand(found.active_uj, OUT) == 26_324_324
