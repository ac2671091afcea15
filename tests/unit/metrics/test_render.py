from __future__ import annotations

import math
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_fd_to_metric_families
from tests.unit.metrics.hostile import NAMES, hostile_view
from tests.unit.metrics.sample import PROCESS, busy_view, small_view

from joulebook.core.sanitize import clean
from joulebook.metrics.catalogue import CATALOGUE
from joulebook.metrics.collector import Family, collect
from joulebook.metrics.dcgm import METRICS, collect_dcgm
from joulebook.metrics.exposition import Block, Format, Renderer, body, negotiate, number
from joulebook.metrics.metric import Kind, Metric
from joulebook.metrics.snapshot import Snapshot

GOLDEN = Path(__file__).with_name("golden.prom")
GAUGE = Metric("joulebook_test_ratio", Kind.GAUGE, "Test.", "ratio", ("a", "b"))
COUNTER = Metric("joulebook_test_total", Kind.COUNTER, "Test.", labels=("a",), adds=True)

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def blocks_of(view: Snapshot) -> list[Block]:
    collected = collect(view, PROCESS, {"joulebook_gpu_info": 1})
    assert not collected.failures
    renderer = Renderer(view.node, view.cluster)
    return [renderer.block(family) for family in (*collected.families, *collect_dcgm(view))]


def parse(text: bytes, style: Format) -> Samples:
    """What a scraper makes of it; no series may come twice."""
    read = openmetrics.text_fd_to_metric_families
    families = (read if style is Format.OPENMETRICS else text_fd_to_metric_families)(
        StringIO(text.decode("utf-8"), newline="\n")
    )
    samples: Samples = {}
    for family in families:
        for sample in family.samples:
            # This reader gives every counter the suffix, dcgm-exporter does not.
            name = sample.name.removesuffix("_total" if sample.name.startswith("DCGM") else "")
            key = name, frozenset(sample.labels.items())
            assert key not in samples
            samples[key] = sample.value
    return samples


def test_golden_exposition() -> None:
    view = small_view()
    collected = collect(view, PROCESS, {"joulebook_gpu_info": 1})
    renderer = Renderer(view.node, view.cluster)
    shown = body([renderer.block(family) for family in collected.families], Format.TEXT)
    assert shown.decode("utf-8") == GOLDEN.read_text("utf-8")


@pytest.mark.parametrize("style", Format)
@pytest.mark.parametrize("view", [small_view(), busy_view()], ids=["small", "busy"])
def test_scraper_reads_what_was_collected(view: Snapshot, style: Format) -> None:
    read = parse(body(blocks_of(view), style), style)
    expected: Samples = {}
    for family in (
        *collect(view, PROCESS, {"joulebook_gpu_info": 1}).families,
        *collect_dcgm(view),
    ):
        metric = family.metric
        for labels, value in family.samples:
            pairs = dict(zip(metric.labels, labels, strict=True))
            if metric.bare:
                pairs = {name: value for name, value in pairs.items() if value}
            else:
                pairs |= {"node": view.node, "cluster": view.cluster}
            expected[metric.name, frozenset(pairs.items())] = value
    assert read == expected


def test_types_units_and_end_of_openmetrics() -> None:
    text = body(blocks_of(small_view()), Format.OPENMETRICS).decode()
    assert text.endswith("\n# EOF\n")
    parsed = openmetrics.text_fd_to_metric_families(StringIO(text))  # type: ignore[no-untyped-call]
    families = {f.name: f for f in parsed}
    energy = families["joulebook_meter_energy_joules"]
    assert (energy.type, energy.unit) == ("counter", "joules")
    assert families["joulebook_gpu_info"].type == "gauge"
    assert families["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"].type == "unknown"
    assert len(families) == len(CATALOGUE) + len(METRICS)


@pytest.mark.parametrize("style", Format)
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_hostile_names_are_read_back_cleaned(name: str, style: Format) -> None:
    text = body(blocks_of(hostile_view(name)), style)
    read = parse(text, style)
    users = {dict(labels).get("user") for _, labels in read} - {None}
    assert users == {clean(name)}
    nodes = {dict(labels)["node"] for metric, labels in read if metric.startswith("joulebook")}
    assert nodes == {clean(name)}
    assert len(text) < 500_000


@given(st.text(st.characters(categories=None), max_size=40))
def test_any_label_value_is_read_back(value: str) -> None:
    block = Renderer("n").block(Family(COUNTER, [((value,), 1)]))
    for style in Format:
        assert parse(body([block], style), style) == {
            (COUNTER.name, frozenset({("node", "n"), ("a", clean(value))})): 1
        }


@given(st.floats() | st.integers())
def test_numbers_are_read_back_exactly(value: float) -> None:
    shown = number(value)
    if math.isnan(value):
        assert shown == "NaN"
    elif isinstance(value, int):
        assert int(shown) == value
    else:
        assert float(shown) == value
        assert len(shown) <= len(repr(value)) + 1


def test_numbers_are_short() -> None:
    shown = [number(value) for value in (1, 1.0, 0.5, True, 1e22, float("inf"), float("-inf"))]
    assert shown == ["1", "1", "0.5", "1", "1e+22", "+Inf", "-Inf"]


def test_series_that_cleaning_made_equal_are_one() -> None:
    renderer = Renderer("n")
    twins: list[tuple[tuple[str, ...], float]] = [(("x\ud800",), 2), (("x\udfff",), 3)]
    block = renderer.block(Family(COUNTER, twins))
    assert block.lines == 'joulebook_test_total{node="n",a="x\ufffd"} 5\n'
    gauges: list[tuple[tuple[str, ...], float]] = [(("\x00", ""), 2), (("\x01", ""), 3)]
    assert renderer.block(Family(GAUGE, gauges)).lines.endswith(" 3\n")
    assert renderer.block(Family(GAUGE, gauges)).lines.count("\n") == 1


def test_prefixes_are_kept_and_forgotten() -> None:
    renderer = Renderer("n", "c")
    first = renderer.block(Family(COUNTER, [(("x",), 1), (("y",), 2)]))
    assert first.lines == (
        'joulebook_test_total{cluster="c",node="n",a="x"} 1\n'
        'joulebook_test_total{cluster="c",node="n",a="y"} 2\n'
    )
    kept = renderer._prefixes[COUNTER.name]["y",]
    renderer.block(Family(COUNTER, [(("y",), 3)]))
    assert renderer._prefixes[COUNTER.name] == {("y",): kept}
    assert renderer._prefixes[COUNTER.name]["y",] is kept


def test_metric_without_samples_is_left_out() -> None:
    assert body([Renderer("n").block(Family(GAUGE, []))], Format.TEXT) == b""


def test_wrong_number_of_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Renderer("n").block(Family(GAUGE, [(("x",), 1)]))


@pytest.mark.parametrize(
    ("accept", "style"),
    [
        ("", Format.TEXT),
        ("*/*", Format.TEXT),
        ("text/html,*/*;q=0.8", Format.TEXT),
        ("application/openmetrics-text", Format.OPENMETRICS),
        ("application/openmetrics-text; version=0.0.1", Format.OPENMETRICS),
        ("application/openmetrics-text; version=2.0.0", Format.TEXT),
        ("application/openmetrics-text; version=1.0.0; q=0", Format.TEXT),
        ("application/openmetrics-text;q=0.2,text/plain;q=0.9", Format.TEXT),
        ("application/openmetrics-text;q=high", Format.TEXT),
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
            "application/openmetrics-text;version=0.0.1;q=0.5,"
            "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,"
            "*/*;q=0.2",
            Format.OPENMETRICS,
        ),
        ("application/vnd.google.protobuf;q=0.7,text/plain;version=0.0.4;q=0.3", Format.TEXT),
        (";;==,,;q=", Format.TEXT),
    ],
)
def test_negotiation(accept: str, style: Format) -> None:
    assert negotiate(accept) is style
