"""Calibration: what is booked is put right, what was read is kept, and both add up."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.audit import Auditor, laws
from tests.unit.core.world import Device, Job, World, at, gpu, play, powered
from tests.unit.core.worlds import worlds

from joulebook.core.energy.calibration import applied, fit, of, power_mw
from joulebook.core.energy.intervals import Calibration, Interval
from joulebook.core.evidence import Method, Remainder
from joulebook.core.ledger.advance import BookingPolicy
from joulebook.core.money.amounts import calibration_of

KNOWN = st.builds(
    Calibration,
    st.integers(500_000, 2_000_000),
    st.integers(-200_000, 200_000),
    st.just(10_000),
    st.just("PDU"),
)


@laws(60)
@given(worlds(), KNOWN)
def test_laws_hold_calibrated_and_what_was_read_is_what_it_was(
    world: World, known: Calibration
) -> None:
    raw = play(world)
    policy = BookingPolicy(calibrations={"GPU-0": known})
    right = play(world, policy, each=Auditor())
    read = {m: s.booked_uj - s.calibration_uj for m, s in right.books.meters.items()}
    assert read == {m: s.booked_uj for m, s in raw.books.meters.items()}
    for meter in right.books.meters:
        if meter.name != "GPU-0":
            assert right.by_subject(meter) == raw.by_subject(meter)


def interval(energy_uj: int, seconds: int = 10, **more: object) -> Interval:
    return Interval(gpu(), at(0), at(seconds), energy_uj, Method.COUNTER, **more)  # type: ignore[arg-type]


CARD = Calibration(1_044_000, -22_000, 10_000, "PDU")


def test_energy_is_gain_times_what_was_read_and_the_offset() -> None:
    right = applied(CARD, interval(3_000_000_000))
    assert right.energy_uj == 3_132_000_000 - 220_000_000
    assert right.energy_uj - right.calibration_uj == 3_000_000_000
    parts = [right.cut(at(a), at(a + 1)) for a in range(10)]
    assert sum(p.energy_uj for p in parts) == right.energy_uj
    assert sum(p.calibration_uj for p in parts) == right.calibration_uj
    assert power_mw(CARD, 300_000) == 313_200 - 22_000
    assert power_mw(None, 300_000) == 300_000


def test_nothing_is_booked_below_zero_and_what_was_not_measured_stays() -> None:
    assert applied(CARD, interval(100_000_000)).energy_uj == 0
    assert power_mw(CARD, 5_000) == 0
    gone = interval(0, unread=True)
    assert applied(CARD, gone) is gone
    late = applied(CARD, interval(1_000_000, remainder=Remainder.COUNTER_RESET))
    assert late.energy_uj == 1_044_000


def test_a_uuid_goes_before_a_model_and_a_narrow_model_before_a_wide_one() -> None:
    one, wide, narrow = (Calibration(n) for n in (1_010_000, 1_020_000, 1_030_000))
    known = {"GPU-0": one, "NVIDIA A100*": wide, "NVIDIA A100-SXM4-80GB": narrow}
    assert of(known, gpu(), "NVIDIA A100-SXM4-80GB") is one
    assert of(known, gpu("GPU-1"), "NVIDIA A100-SXM4-80GB") is narrow
    assert of(known, gpu("GPU-1"), "NVIDIA A100-PCIE-40GB") is wide
    assert of(known, gpu("GPU-1"), "NVIDIA H100") is None
    assert of({}, gpu(), "") is None


def test_what_a_job_is_booked_is_calibrated_from_then_on() -> None:
    job = Job("a_1", gpu(), at(2), at(12))
    curve = powered(((at(2), at(12), 240_000),))
    world = World((Device(gpu(), curve, period_ns=0),), (job,), ((at(0), at(20)),))
    run = play(world, BookingPolicy(calibrations={"GPU-0": CARD}))
    assert run.by_subject()[job.id] == pytest.approx((300 * 1.044 - 22) * 10e6, rel=1e-4)
    used: dict[str, int] = {}
    for entry in run.entries:
        for rate, amount in entry.rates.items():
            assert (rate.value, rate.source) == (10_000, "PDU")
            used[rate.quantity] = used.get(rate.quantity, 0) + amount.energy_uj
    # It is on record of which energy, so that a statement can say it.
    assert used == {calibration_of("GPU-0"): run.booked_uj()}


def points(gain: float, offset_w: float, noise_w: float = 0.5) -> list[tuple[float, float]]:
    random = Random(1)
    return [
        (x, gain * x + offset_w + random.gauss(0, noise_w))
        for x in (60 + 10 * n for n in range(30))
    ]


@pytest.mark.parametrize(("gain", "offset_w"), [(0.954, 3.0), (1.044, -22.0), (1.0, 0.0)])
def test_a_fit_finds_gain_and_offset_within_its_errors(gain: float, offset_w: float) -> None:
    found = fit(points(gain, offset_w))
    assert abs(found.gain - gain) <= 3 * found.gain_error
    assert abs(found.offset_w - offset_w) <= 3 * found.offset_error_w
    assert 0 < found.uncertainty_ratio < 0.02
    assert found.residual_w == pytest.approx(0.5, rel=0.4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (points(1.0, 0.0)[:9], "9 windows"),
        ([(300.0 + n / 10, 300.0) for n in range(20)], "a load that varies"),
        ([(0.0 + n, 1.0) for n in range(20)], "a load that varies"),
        (points(3.0, 0.0), "a gain of 3"),
        (points(1.0, 500.0), "an offset of 499"),
        (points(1.0, 0.0, noise_w=60.0), "leaves"),
    ],
)
def test_what_means_nothing_is_refused(given: list[tuple[float, float]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit(given)
