from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import partial

import msgspec
import pytest
from tests.unit.metrics.sample import small_view

from joulebook.metrics import collector
from joulebook.metrics import exposition as exposition_module
from joulebook.metrics.collector import Collected, Family, Sample, collect
from joulebook.metrics.derived import Derived
from joulebook.metrics.exposition import Exposition, Format
from joulebook.metrics.snapshot import Snapshot
from joulebook.server.routes import Pages

OPENMETRICS = "application/openmetrics-text"


class Told:
    """Remembers the errors it is reported of."""

    def __init__(self) -> None:
        self.errors: list[tuple[str, str]] = []

    def __call__(self, family: str, error: Exception) -> None:
        self.errors.append((family, str(error)))


def exposition(
    view: Snapshot | None = None, reported: Told | None = None, compat: str = ""
) -> Exposition:
    return Exposition(
        view or small_view(),
        lambda: (True, "ready"),
        lambda: (True, "healthy"),
        compat=[compat],
        on_error=reported or Told(),
    )


def again(view: Snapshot) -> Snapshot:
    return msgspec.structs.replace(view, tick_s=view.tick_s + 1)


def test_is_what_the_server_serves() -> None:
    pages: Pages = exposition()
    assert pages.ready() == (True, "ready")
    assert pages.healthy() == (True, "healthy")
    assert pages.metrics("")[1] == Format.TEXT.value
    assert pages.index().startswith(b"<!DOCTYPE html>")


def test_a_view_is_rendered_once_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def counted(*args: object) -> Collected:
        nonlocal calls
        calls += 1
        return collect(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(exposition_module, "collect", counted)
    shown = exposition()
    bodies: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: bodies.append(shown.metrics("")[0])) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == 1
    assert len({id(body) for body in bodies}) == 1
    shown.metrics(OPENMETRICS)
    assert calls == 1
    shown.publish(lambda: again(small_view()))
    assert shown.metrics("")[0] is not bodies[0]
    assert calls == 2


def test_scraping_changes_nothing() -> None:
    """The same view gives the same figures, whoever asked before, and in whichever format."""
    plain = exposition()
    greedy = exposition()
    for _ in range(3):
        greedy.metrics(OPENMETRICS)
        greedy.metrics("")
    own = "process_"  # its own memory and CPU time are those of the moment
    first, second = (
        [line for line in shown.metrics("")[0].decode().splitlines() if own not in line]
        for shown in (plain, greedy)
    )
    assert first == second


def test_own_process_is_shown() -> None:
    text = exposition().metrics("")[0].decode()
    assert 'process_resident_memory_bytes{cluster="lab",node="node-1"} ' in text


def test_compatibility_is_asked_for() -> None:
    assert b"DCGM_FI" not in exposition().metrics("")[0]
    assert b"DCGM_FI_DEV_GPU_UTIL{" in exposition(compat="dcgm").metrics("")[0]


def test_failure_is_told_once_and_counted_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    reported = Told()
    view = small_view()
    shown = exposition(view, reported, compat="dcgm")
    name = "joulebook_tick_duration_seconds"

    def fail(derived: Derived) -> Iterable[Sample]:
        raise RuntimeError("no")

    def fail_dcgm(view: Snapshot, **_: bool) -> list[Family]:
        raise RuntimeError("nor here")

    whole = collector.PRODUCERS
    monkeypatch.setattr(collector, "PRODUCERS", {**whole, name: fail})
    monkeypatch.setattr(exposition_module, "collect_dcgm", fail_dcgm)
    for expected in (1, 2):
        text = shown.metrics("")[0].decode()
        assert f"{name}{{" not in text
        assert f'family="{name}"}} {expected}\n' in text
        assert "joulebook_meter_energy_joules_total{" in text
        view = again(view)
        shown.publish(partial(msgspec.structs.replace, view))
    assert reported.errors == [(name, "no"), ("dcgm", "nor here")]
    monkeypatch.setattr(collector, "PRODUCERS", whole)
    text = shown.metrics("")[0].decode()
    assert f"{name}{{" in text
    assert f'family="{name}"}} 2\n' in text
    assert 'family="dcgm"} 2\n' in text


def test_family_that_cannot_be_rendered_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    reported = Told()
    name = "joulebook_tick_duration_seconds"
    wrong = {**collector.PRODUCERS, name: lambda derived: [(("one", "label"), 1.0)]}
    monkeypatch.setattr(collector, "PRODUCERS", wrong)
    text = exposition(reported=reported).metrics("")[0]
    assert name.encode() not in text
    assert [family for family, _ in reported.errors] == [name]


def test_page_is_made_once_per_view_and_state() -> None:
    state = [True, "ready"]
    shown = Exposition(
        small_view(),
        lambda: (bool(state[0]), str(state[1])),
        lambda: (True, ""),
        on_error=Told(),
    )
    first = shown.index()
    assert shown.index() is first
    state[:] = [False, "no tick for 9 s"]
    assert b"no tick for 9 s" in shown.index()
    shown.publish(lambda: again(small_view()))
    assert shown.index() is not first
