from __future__ import annotations

import re
from html.parser import HTMLParser

import msgspec
import pytest
from tests.unit.metrics.hostile import NAMES, hostile_view
from tests.unit.metrics.sample import GPU0, NOW_NS, busy_view, device, small_books, small_view

from joulebook.core.attribution.claims import Evidence, Holder
from joulebook.core.energy.audit import Audit, Verdict
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.readings import Component, Meter, Reading
from joulebook.core.ledger.state import Books, WorkloadState
from joulebook.core.money.rates import RateSet
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.metrics.page.page import render_page
from joulebook.metrics.snapshot import Snapshot
from joulebook.units import NS_PER_S

VOID = {"meta", "br", "link", "img", "input"}


class Reader(HTMLParser):
    """Collects the text and the elements, and insists that they are nested as they should be."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.said: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.said.append(data)


def read(view: Snapshot, ready: bool = True, message: str = "ready") -> Reader:
    page = render_page(view, ready, message).decode("utf-8")
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    return reader


def words(view: Snapshot, ready: bool = True, message: str = "ready") -> str:
    text = "\n".join(read(view, ready, message).said).replace("\u202f", " ")
    return re.sub(r"\s+", " ", text)


def test_page_says_what_matters() -> None:
    text = words(small_view())
    for said in (
        "node-1",
        "Joulebook in lab, 17:23:20 UTC",
        "614 W",
        "2 GPUs, 2 held",
        "100_7.r1 (25 %)",
        "grace / vision / vit-sweep",
        "somebody (25 %)",
        "(starting)",
        "214 Wh",
        "61/80 GiB",
        "64 °C",
        "unallocated",
        "83 % idle",
        "≈ 50 W",
        "ended 3 min",
        "0.75 EUR, 96.0 g CO₂e",
        "0.31 EUR/kWh (contract 2026)",
        "363 g CO₂e/kWh (Energy-Charts DE)",
        "PUE 1.25 (machine room)",
        "The source of carbon does not answer well: Energy-Charts DE.",
        "apportioned between several holders",
    ):
        assert said in text, said


def test_what_is_not_measured_for_all_of_its_time_says_so() -> None:
    assert re.findall(r"(\S+ \S+) (\d+ %) measured", words(small_view())) == [("1.00 h", "80 %")]


def test_books_add_up_on_the_page() -> None:
    text = words(small_view())
    numbers = [int(re.sub(r"[,.]", "", n)) for n in re.findall(r"([\d,]+\.\d{6}) J", text)]
    assert len(numbers) == 4
    assert sum(numbers[:3]) == numbers[3] > 0
    assert "do not balance" not in text


def test_books_that_do_not_balance_are_not_hidden() -> None:
    wrong = msgspec.structs.replace(small_books(), remainders={})
    assert "The books do not balance" in words(small_view(wrong))


@pytest.mark.parametrize(
    ("points", "said"),
    [(900, "15 min ago"), (600, "10 min ago"), (90, "2 min ago"), (21, "20 s ago"), (2, "1.0 s")],
)
def test_the_picture_of_power_goes_back_as_far_as_it_says(points: int, said: str) -> None:
    view = small_view()
    young = msgspec.structs.replace(view, history=view.history[-points:])
    assert said in words(young)
    page = render_page(young, True, "ready").decode()
    (line,) = re.findall(r'<polyline [^>]*points="([^"]+)"', page)
    span_s = 60 * -(-points // 60) if points > 60 else points - 1
    begins = 300 * (1 - (points - 1) / span_s)
    assert float(line.split(",")[0]) == pytest.approx(begins, abs=1)
    at_once = msgspec.structs.replace(view, history=view.history[-1:] * 2)
    assert "ago</span>" not in render_page(at_once, True, "ready").decode()


def test_trouble_is_said_plainly() -> None:
    text = words(small_view(), False, "sensor nvml has not answered for 12 s\n<b>disk</b> is full")
    assert "not ready" in text
    assert "sensor nvml has not answered for 12 s <b>disk</b> is full" in text
    assert 'role="alert"' not in render_page(small_view(), True, "ready").decode()


def test_nothing_to_show_is_said_too() -> None:
    text = words(Snapshot("n", Books()))
    for said in (
        "Nothing here says what power it draws.",
        "No GPU has been read yet.",
        "No workload yet.",
        "0 J",
    ):
        assert said in text


def test_a_node_without_gpus_shows_what_cpu_and_memory_draw() -> None:
    def counted(component: Component, name: str, watts: int) -> MeterState:
        meter = Meter(component, name)
        first = Reading(meter, NOW_NS - 2 * NS_PER_S, 0)
        last = Reading(meter, NOW_NS, 2 * watts * 10**6)
        return MeterState(meter, first, (last,), read_uj=2 * watts * 10**6)

    states = (
        counted(Component.CPU, "package-0", 85),
        counted(Component.CPU, "package-1", 60),
        counted(Component.DRAM, "dram-0", 12),
    )
    text = words(
        Snapshot("n", Books(meters={state.meter: state for state in states}), now_ns=NOW_NS)
    )
    assert "157 W CPU 145 W; memory 12 W" in text
    assert "Nothing here says" not in text
    assert "GPU" not in text
    gpu = device(GPU0, 0, power_watts=43.0)
    beside = Snapshot(
        "n", Books(meters={s.meter: s for s in states}), statuses=(gpu,), now_ns=NOW_NS
    )
    assert "200 W 1 GPU, 0 held; CPU 145 W; memory 12 W" in words(beside)


def test_page_needs_no_script_and_no_other_request() -> None:
    reader = read(busy_view())
    assert not {"script", "img", "link", "iframe", "form", "object"} & set(reader.tags)
    names = {name for name, _ in reader.attributes}
    assert "style" not in names
    assert not any(name.startswith("on") for name in names)
    links = [value for name, value in reader.attributes if name in {"href", "src"}]
    assert links == ["metrics"]
    assert reader.tags.count("style") == 1
    page = render_page(busy_view(), True, "ready").decode()
    assert "url(" not in page
    assert "@import" not in page
    assert '<meta http-equiv="refresh" content="5">' in page


def test_page_is_accessible() -> None:
    page = render_page(busy_view(), True, "ready").decode()
    assert '<html lang="en">' in page
    assert page.count("<h1>") == 1
    ids = re.findall(r'<section[^>]* aria-labelledby="([^"]+)"', page)
    assert len(ids) == 5 == len(set(ids))
    assert all(f'<h2 id="{id_}">' in page for id_ in ids)
    for head in re.findall(r"<th\b[^>]*>", page):
        assert 'scope="' in head
    for picture in re.findall(r"<svg[^>]*>", page):
        assert 'aria-hidden="true"' in picture or 'role="img" aria-label="' in picture


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_hostile_names_stay_text(name: str) -> None:
    view = hostile_view(name)
    reader = read(view, False, name * 3)
    assert "script" not in reader.tags
    assert "b" not in reader.tags
    page = render_page(view, False, name * 3)
    page.decode("utf-8")
    assert len(page) < 30_000
    assert not {"\x00", "\u202e", "\x07"} & set(page.decode())


def test_gpu_that_does_not_answer_is_said() -> None:
    lost = Meter(Component.GPU, "GPU-lost")
    books = small_books()
    meters: dict[Meter, MeterState] = dict(books.meters)
    view = small_view(msgspec.structs.replace(books, meters={**meters, lost: meters[GPU0]}))
    assert "GPU-lost not answering" in words(view)


def test_stale_reading_says_its_age() -> None:
    old = msgspec.structs.replace(device(GPU0, 0), t_ns=NOW_NS - 42 * NS_PER_S)
    text = words(msgspec.structs.replace(small_view(), statuses=(old,)))
    assert "read 42 s ago" in text


def test_mixed_models_are_named_each() -> None:
    other = msgspec.structs.replace(device(GPU0, 0), model="Tesla T4")
    view = small_view()
    text = words(msgspec.structs.replace(view, statuses=(*view.statuses, other)))
    assert "Tesla T4" in text
    assert "2 x" not in text


def test_device_that_says_little_is_shown() -> None:
    mute = msgspec.structs.replace(device(GPU0, 0), values={"power_watts": 30.0})
    text = words(msgspec.structs.replace(small_view(), statuses=(mute,)))
    assert "30 W" in text
    assert "not known" in text


def test_long_lists_are_cut() -> None:
    text = words(busy_view(workloads=64))
    assert "and 24 more" in text
    assert "5 more" in text


def test_running_workloads_come_first() -> None:
    text = words(busy_view(gpus=4, workloads=12))
    section = text[text.index("now and lately") :]
    assert section.index("48101") < section.index("ended")


def test_unsettled_and_pooled_workloads_are_not_listed() -> None:
    pool = WorkloadId("(overflow)", "a/b")
    books = small_books()
    pooled = WorkloadState(WorkloadFacts(pool), {}, 0, Labels("a", "b", "(overflow)"), "(overflow)")
    view = small_view(msgspec.structs.replace(books, workloads={pool: pooled}))
    view = msgspec.structs.replace(view, holders={GPU0: (Holder(pool, Evidence.PROLOG, 1, 1),)})
    assert "No workload yet." in words(view)


def test_a_replayed_trace_is_not_taken_for_this_machine() -> None:
    view = small_view()
    said = "recorded trace"
    assert said not in render_page(view, True, "ready").decode()
    replayed = msgspec.structs.replace(
        view, sensors=(msgspec.structs.replace(view.sensors[0], kind="replay"),)
    )
    assert said in render_page(replayed, True, "ready").decode()


def test_page_says_which_setting_is_missing() -> None:
    view = msgspec.structs.replace(
        small_view(),
        charges=frozenset(),
        rates=RateSet(),
        feeds=(),
        today_bills={},
        lacking=(("rates.price.kind", "cost of electricity"),),
    )
    text = words(view)
    assert "Not shown: cost of electricity, because rates.price.kind is not set." in text
    assert "EUR" not in text
    assert "Charged" not in text


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (Verdict.SOUND, "agrees with power"),
        (Verdict.WRONG, "wrong"),
        (Verdict.CANNOT_TELL, "cannot tell"),
    ],
)
def test_a_card_says_how_its_counter_stands_to_its_power(verdict: Verdict, said: str) -> None:
    view = busy_view()
    meters = {
        meter: msgspec.structs.replace(state, audit=Audit(verdict=verdict, ratio=0.9))
        for meter, state in view.books.meters.items()
    }
    view = msgspec.structs.replace(view, books=msgspec.structs.replace(view.books, meters=meters))
    page = " ".join(read(view).said)
    assert f"counter: {said}: 90.0% of power" in page
