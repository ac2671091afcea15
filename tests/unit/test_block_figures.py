"""`with joulebook.experiment("bert") as run:` knows what it consumed, from whoever can say it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.unit.node_stub import NodeStub, node

import joulebook
from joulebook import in_process, warn_once
from joulebook.run_figures import NodeRuns, RunFigures

KWH_UJ = 3_600_000_000_000
BOOKED = RunFigures(
    "span", "ada", KWH_UJ, KWH_UJ // 4, 0, None,
    {"counter": KWH_UJ // 2, "apportioned": KWH_UJ // 2}, {"EUR": 250_000_000}, {"EUR": 1},
    358_000_000, ("n1",), 1, ended_utc_s=1.0,
)  # fmt: skip
LATER_S = 4e9


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "JOULEBOOK_URL", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JOULEBOOK_MARKS_DIR", str(tmp_path))
    monkeypatch.setenv("JOULEBOOK_SERVER_LISTEN", "127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    warn_once.say_once.cache_clear()


@pytest.fixture
def answers() -> list[NodeRuns]:
    """What the daemon answers, one after the other; the last one from then on."""
    return [NodeRuns("n1", LATER_S, (BOOKED,))]


@pytest.fixture
def daemon(answers: list[NodeRuns], monkeypatch: pytest.MonkeyPatch) -> Iterator[NodeStub]:
    def answer(path: str, query: dict[str, str]) -> object:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    with node(answer) as server:
        monkeypatch.setenv("JOULEBOOK_SERVER_LISTEN", server.listen)
        yield server


def test_its_figures_are_those_of_the_books(daemon: NodeStub) -> None:
    with joulebook.experiment("bert") as run:
        assert run.energy_kwh == 1  # so far
    assert (run.energy_kwh, run.idle_kwh, run.cost, run.co2e_g) == (1, 0.25, {"EUR": 0.25}, 358)
    assert run.known == (
        "50% measured by the energy counter, 50% apportioned among those who shared it"
    )
    assert run.figures()["energy_measured_ratio"] == 0.5
    assert {query.get("job", "") for path, query, _ in daemon.asked} == {"", run.id}


def test_after_the_end_it_waits_until_all_is_booked(
    daemon: NodeStub, answers: list[NodeRuns], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joulebook.block_figures.POLL_S", 0.001)
    part, going = replace(BOOKED, energy_uj=1), replace(BOOKED, ended_utc_s=None)
    answers[:] = [
        NodeRuns("n1", 0), NodeRuns("n1", 1, (part,)), NodeRuns("n1", LATER_S, (going,)),
        NodeRuns("n1", LATER_S, (BOOKED,)), NodeRuns("n1", LATER_S, (part,)),
    ]  # fmt: skip
    with joulebook.experiment("bert", wait_s=60) as run:
        pass
    assert run.energy_kwh == 1
    assert run.energy_kwh == 1  # not asked again: it is final
    assert len(answers) == 1


def test_it_waits_no_longer_than_it_is_told(
    daemon: NodeStub, answers: list[NodeRuns], recwarn: pytest.WarningsRecorder
) -> None:
    answers[:] = [NodeRuns("n1", 1, (replace(BOOKED, ended_utc_s=None),))]
    with joulebook.experiment("bert", wait_s=0) as run:
        pass
    assert run.energy_kwh == 1  # what is known so far
    answers[:] = [NodeRuns("n1", 1)]
    with joulebook.experiment("bert", wait_s=0) as run:
        pass
    assert (run.energy_kwh, run.figures(), run.known) == (None, {}, "nothing was measured")
    (said,) = recwarn
    assert f"nothing is booked to {run.id}" in str(said.message)


def test_all_reads_together_wait_once(
    daemon: NodeStub, answers: list[NodeRuns], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now_s[0] += seconds

    monkeypatch.setattr("joulebook.block_figures.time.sleep", sleep)
    monkeypatch.setattr("joulebook.block_figures.time.monotonic", lambda: now_s[0])
    answers[:] = [NodeRuns("n1", 1, (replace(BOOKED, ended_utc_s=None),))]
    with joulebook.experiment("bert", wait_s=3) as run:
        pass
    assert slept == []
    assert (run.energy_kwh, sum(slept)) == (1, 3)
    assert (run.cost, run.co2e_g, run.idle_kwh, sum(slept)) == ({"EUR": 0.25}, 358, 0.25, 3)


def test_windows_are_asked_for_and_written_as_parts_of_the_run(
    daemon: NodeStub, tmp_path: Path
) -> None:
    with joulebook.experiment("bert") as run:
        with run.window("epoch") as epoch, epoch.window("validate") as inner:
            pass
        with run.window("epoch") as second:
            pass
    assert epoch.id.rpartition("_")[0] == second.id.rpartition("_")[0] == run.id
    assert inner.id.rpartition("_")[0] == epoch.id
    assert inner.experiment == "bert"
    own = run.id.partition(".")[0].rpartition("-")[2]
    first = epoch.id.rpartition("_")[2]
    told = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert sorted((each["window"], each["within"]) for each in told if "window" in each) == [
        ("epoch", own), ("epoch", own), ("validate", f"{own}_{first}"),
    ]  # fmt: skip
    assert epoch.energy_kwh == 1
    assert daemon.asked[-1][1] == {"job": epoch.id}


def test_in_a_slurm_job_it_is_what_was_booked_to_the_job_meanwhile(
    daemon: NodeStub, answers: list[NodeRuns], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "500")
    before = replace(BOOKED, name="500", energy_uj=KWH_UJ, ended_utc_s=None)
    after = replace(before, energy_uj=3 * KWH_UJ, co2e_ug=558_000_000, methods={"counter": KWH_UJ})
    answers[:] = [NodeRuns("n1", 5, (before,)), NodeRuns("n1", LATER_S, (after,))]
    with joulebook.experiment("bert") as run:
        pass
    assert (run.energy_kwh, run.co2e_g, run.cost) == (2, 200, {"EUR": 0})
    assert daemon.asked[-1][1] == {"job": "500"}


def test_without_a_daemon_it_says_so_once_and_gives_nothing(
    recwarn: pytest.WarningsRecorder,
) -> None:
    for _ in range(3):
        with joulebook.experiment("bert") as run, run.window("epoch") as epoch:
            pass
        assert (run.energy_kwh, epoch.energy_kwh, run.cost, run.co2e_g) == (None, None, {}, None)
        assert (run.known, run.figures()) == ("nothing was measured", {})
    (said,) = recwarn
    assert str(said.message).startswith("joulebook: nothing answers at 127.0.0.1:1: ")
    assert str(said.message).endswith(": nothing is measured")


@pytest.mark.filterwarnings("ignore:joulebook")
def test_a_daemon_that_goes_or_is_an_older_one_stops_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with node(lambda path, query: 404) as server:
        monkeypatch.setenv("JOULEBOOK_SERVER_LISTEN", server.listen)
        with joulebook.experiment("bert") as run:
            assert run.energy_kwh is None
    assert run.energy_kwh is None
    monkeypatch.setenv("JOULEBOOK_SERVER_LISTEN", "nonsense")
    with joulebook.experiment("bert") as run:
        pass
    assert run.energy_kwh is None


def test_a_training_that_fails_fails_as_without_us(daemon: NodeStub) -> None:
    with pytest.raises(KeyError), joulebook.experiment("bert") as run:
        raise KeyError("loss")
    assert run.energy_kwh == 1


class Card:
    """A GPU of a driver that is not there."""

    def __init__(self, uuid: str, mj: int | None = 0, limit_mw: int = 0) -> None:
        self.uuid, self.mj, self.limit_mw = uuid, mj, limit_mw

    def energy(self) -> int:
        if self.mj is None:
            raise RuntimeError("Not Supported")
        return self.mj


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> list[Card]:
    cards: list[Card] = []
    nvml = types.ModuleType("pynvml")
    vars(nvml).update(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: len(cards),
        nvmlDeviceGetHandleByIndex=lambda index: cards[index],
        nvmlDeviceGetUUID=lambda card: card.uuid,
        nvmlDeviceGetTotalEnergyConsumption=Card.energy,
        nvmlDeviceGetEnforcedPowerLimit=lambda card: card.limit_mw,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return cards


@pytest.mark.filterwarnings("ignore:joulebook")
def test_without_a_daemon_nvml_is_asked_in_the_process(cards: list[Card]) -> None:
    cards += [Card("GPU-a", 1_000), Card("GPU-b", 5_000), Card("GPU-old", None)]
    with joulebook.experiment("bert") as run:
        cards[0].mj, cards[1].mj = 3_600_000 + 1_000, 0  # the second was reset
        assert run.energy_kwh == 0.001
    assert run.energy_kwh == 0.001
    assert run.known == "100% measured in this process, for its GPUs as a whole"
    assert (run.cost, run.co2e_g) == ({}, None)
    cards[0].mj = 10**9
    assert run.energy_kwh == 0.001  # it is over


@pytest.mark.filterwarnings("ignore:joulebook")
def test_of_gpus_that_cuda_hides_nothing_is_taken(
    cards: list[Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    cards += [Card("GPU-a"), Card("GPU-b")]
    with joulebook.experiment("bert") as run:
        cards[0].mj, cards[1].mj = 7_200_000, 3_600_000
    assert run.energy_kwh == 0.001


@pytest.mark.parametrize(
    ("visible", "shown"),
    [
        (None, [0, 1, 2]), ("", []), ("-1", []), ("1,0", [1, 0]), (" 2 , 1", [2, 1]),
        ("0,7,1", [0]), ("0,0", [0]), ("GPU-ab", [1]), ("GPU-a", []), ("GPU-c,GPU-aa", [2, 0]),
        ("MIG-1234", []), ("0,x,1", [0]),
    ],
)  # fmt: skip
def test_which_gpus_cuda_shows(visible: str | None, shown: list[int]) -> None:
    assert in_process.shown(["GPU-aa", "GPU-ab", "GPU-c"], visible) == shown


@pytest.mark.filterwarnings("ignore:joulebook")
def test_it_is_modelled_only_if_that_is_asked_for(
    cards: list[Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    cards.append(Card("GPU-old", None, limit_mw=300_000))
    now_ns, cpu_s = iter([0, 10 * 10**9] * 2), iter([0.0, 0.0, 3.0])
    monkeypatch.setattr("joulebook.in_process.time.monotonic_ns", lambda: next(now_ns))
    monkeypatch.setattr(in_process, "_cpu_s", lambda: next(cpu_s))
    with joulebook.experiment("bert") as run:
        pass
    assert run.energy_kwh is None
    with joulebook.experiment("bert", estimate=True) as run:
        pass
    assert run.energy_kwh == pytest.approx((300 * 10 + 10 * 3) / 3.6e6)
    assert run.known == "100% modelled, not measured"
    assert run.figures()["energy_measured_ratio"] == 0


def test_a_broken_installation_stops_no_program(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['msgspec'] = None; import joulebook\n"
        "with joulebook.experiment('bert') as run: sys.stderr.write('trained; ')\n"
        "print(run.energy_kwh, run.figures())\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={"PYTHONPATH": ":".join(sys.path), "JOULEBOOK_MARKS_DIR": str(tmp_path)},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == "None {}\n"
    # Who does not ask for figures is not told that there are none.
    assert done.stderr.startswith("trained; joulebook: no figures of this block: ModuleNotFound")
    assert done.stderr.count("\n") == 1


def test_a_block_costs_a_training_little(daemon: NodeStub) -> None:
    """A decorated function asks nobody anything: it is called in loops."""
    began = time.process_time()

    @joulebook.experiment("bert")
    def step() -> None:
        pass

    for _ in range(10):
        step()
    assert daemon.asked == []
    assert time.process_time() >= began
