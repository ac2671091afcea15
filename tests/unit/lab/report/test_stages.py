"""The table by stage of a family of models, from a ledger whose truth is known."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.unit.lab.report.family import HOST, RATES_TOML, TRIALS, write_family

from joulebook.cli import main
from joulebook.core.report.run_roles import State

PROJECT = ("--experiment", "family", "--experiment", "family-dev", "--project", "Family 7B")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("family")
    write_family(folder / "ledger.db")
    file = folder / "joulebook.toml"
    file.write_text(f'[node]\nname = "gpu-1"\n[ledger]\npath = "{folder}/ledger.db"\n{RATES_TOML}')
    return file


def printed(capsys: pytest.CaptureFixture[str], config: Path, *arguments: str) -> str:
    assert main(["--config", str(config), "report", *arguments]) == 0
    return capsys.readouterr().out


def reported(capsys: pytest.CaptureFixture[str], config: Path, *arguments: str) -> Any:
    return json.loads(printed(capsys, config, "--format", "json", *PROJECT, *arguments))


def test_the_published_totals(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = reported(capsys, config)
    assert found["title"] == "Family 7B"
    total = found["stages"]["total"]
    assert total["facility_kwh"] == pytest.approx(12_300, rel=1e-6)
    assert total["co2e_kg"] == pytest.approx(4_251, rel=1e-6)
    assert total["water_l"] == pytest.approx(15_887, rel=1e-4)
    assert found["stages"]["development"]["percent"] == pytest.approx(82.2, abs=1e-6)
    assert found["stages"]["final"]["percent"] == pytest.approx(17.8, abs=1e-6)
    gpu_kwh = found["energy"]["gpu"]["value"]
    assert total["facility_kwh"] / gpu_kwh == pytest.approx(1.74, rel=1e-6)
    assert found["carbon"]["embodied"]["low"] > 0
    assert found["boundary"]["node"]["value"] == pytest.approx(gpu_kwh * (1 + HOST), rel=1e-6)
    assert found["boundary"]["node"]["note"].startswith("hosts measured for 100 %")


def test_every_stage_has_what_was_spent_on_it(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = reported(capsys, config)["stages"]
    rows = {row["stage"]: row for row in stages["rows"]}
    assert list(rows) == [
        "development", "pre-training", "mid-training", "SFT", "RL", "evaluation",
    ]  # fmt: skip
    for name, row in rows.items():
        mine = [trial for trial in TRIALS if trial.stage == name]
        assert row["runs"] == len(mine)
        assert row["percent"] == pytest.approx(sum(t.share for t in mine) / 10, abs=1e-6)
        for outcome in ("completed", "failed", "cancelled", "preempted"):
            assert row[outcome] == sum(trial.outcome == outcome for trial in mine)
    for figure in ("energy_uj", "runs"):
        assert sum(row[figure] for row in rows.values()) == stages["total"][figure]
    for figure in ("co2e_kg", "water_l", "facility_kwh", "gpu_hours"):
        of_rows = sum(row[figure] for row in rows.values())
        assert of_rows == pytest.approx(stages["total"][figure], rel=1e-9)
    lost = [t for t in TRIALS if t.outcome in {"failed", "cancelled", "preempted"}]
    assert stages["lost"]["runs"] == len(lost)
    assert stages["lost"]["percent"] == pytest.approx(sum(t.share for t in lost) / 10, abs=1e-6)


def test_failed_cancelled_and_preempted_runs_are_named(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = reported(capsys, config)["counts"]
    assert [len(counts[f"{each}_runs"]) for each in ("failed", "cancelled", "preempted")] == [
        4,
        1,
        1,
    ]
    text = printed(capsys, config, *PROJECT)
    for kind in ("failed", "cancelled", "preempted"):
        for run in counts[f"{kind}_runs"]:
            assert run in text.partition("Energy by run")[0]


def test_the_author_of_the_paper_has_the_last_word_on_stages(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    about = tmp_path / "about.toml"
    about.write_text('final = ["7b"]\n[stages]\n"ablation-*" = "ablations"\nfamily = "model"\n')
    stages = reported(capsys, config, "--about", str(about))["stages"]
    assert {row["stage"]: row["runs"] for row in stages["rows"]} == {
        "ablations": 12, "development": 6, "model": 5,
    }  # fmt: skip
    assert stages["final"]["runs"] == 1
    assert stages["development"]["runs"] == len(TRIALS) - 1


def test_the_site_names_stages_that_nobody_stated(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told = tmp_path / "told.toml"
    told.write_text(config.read_text() + '[report.stages]\n"*" = "guess"\n')
    assert "guess" not in {row["stage"] for row in reported(capsys, told)["stages"]["rows"]}


def test_a_final_run_that_is_none_is_an_error(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(config), "report", *PROJECT, "--final", "70b"]) != 0
    assert "'70b' matches no run of this report" in capsys.readouterr().err


def test_water_is_unknown_unless_both_factors_are(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    half = tmp_path / "half.toml"
    lines = config.read_text().splitlines()
    half.write_text("\n".join(line for line in lines if "grid_" not in line))
    found = reported(capsys, half)
    assert found["carbon"]["water"]["value"] is None
    assert found["stages"]["total"]["water_l"] is None


def test_water_by_a_file_follows_time(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "grid.csv").write_text(
        "start,l_per_kwh,source\n2026-01-01T00:00:00Z,1.0,utility\n2027-01-01T00:00:00Z,9.0,utility\n"
    )
    timed = tmp_path / "timed.toml"
    lines = [line for line in config.read_text().splitlines() if "grid_" not in line]
    lines.insert(lines.index("[rates.water]") + 1, f'grid_file = "{tmp_path}/grid.csv"')
    timed.write_text("\n".join(lines))
    found = reported(capsys, timed)
    it, facility = (found["energy"][each]["value"] for each in ("it", "facility"))
    assert found["carbon"]["water"]["value"] == pytest.approx(0.2 * it + 1.0 * facility, rel=1e-9)
    assert [r["source"] for r in found["rates"] if r["quantity"] == "water_grid"] == ["utility"]


def test_what_is_modelled_is_shown_as_modelled_and_nowhere_else(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    modelled = tmp_path / "modelled.toml"
    modelled.write_text(
        config.read_text().replace(
            "[report]",
            '[report]\nhost_multiplier = 1.4\nhost_source = "a survey"\n'
            'network_multiplier = 1.1\nnetwork_source = "switches"',
        )
    )
    found, plain = reported(capsys, modelled), reported(capsys, config)
    assert found["boundary"]["modelled_hosts"]["value"] == 0, "all hosts have a meter"
    network = found["boundary"]["modelled_network"]
    assert network["value"] == pytest.approx(0.1 * found["energy"]["it"]["value"])
    assert network["note"].startswith("modelled") and network["source"] == "switches"
    for part in ("energy", "carbon", "cost", "stages"):
        assert found[part] == plain[part]


def test_a_multiplier_without_its_source_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(config.read_text().replace("[report]", "[report]\nhost_multiplier = 1.4"))
    assert main(["--config", str(wrong), "report", *PROJECT]) != 0
    assert "report.host_source" in capsys.readouterr().err


def test_outcomes_are_words_of_the_schema() -> None:
    assert {trial.outcome for trial in TRIALS} <= {str(state) for state in State}


def test_the_readme_shows_this_table(
    config: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    repository: Path,
) -> None:
    monkeypatch.setenv("COLUMNS", "84")
    text = printed(capsys, config, *PROJECT, "--length", "short")
    table = text[text.index("Family 7B: energy by stage") :].rstrip()
    shown = "\n".join(f"    {line}" for line in table.splitlines())
    assert shown in (repository / "README.md").read_text()


@pytest.mark.parametrize("width", [40, 60, 80, 110])
@pytest.mark.parametrize("length", ["sentence", "short", "full"])
def test_no_width_cuts_a_figure(
    config: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    length: str,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = printed(capsys, config, *PROJECT, "--length", length)
    assert "\u2026" not in text
    assert max(map(len, text.splitlines())) <= width
    if length != "sentence":
        # Whatever else is left out, energy and its share stay.
        assert re.search(r"all .* 12,300 .* 100\.0", text)


def test_the_sentence_and_the_paragraph(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    said = " ".join(printed(capsys, config, *PROJECT, "--length", "sentence").split())
    assert said == (
        "The project Family 7B consumed 12.3 MWh of electricity in 11,782 GPU-hours, emitting "
        "4.3 t CO2e (location-based) and consuming 15.9 kL of water, at a cost of 1,230 USD for "
        "electricity and 23,563 USD for hardware; 82.2 % of the energy went into development."
    )
    paragraph = " ".join(printed(capsys, config, *PROJECT, "--length", "short").split())
    assert (
        "Of the runs, 4 failed, 1 was cancelled and 1 was preempted; they account for 28.2 % of "
        "the energy, which is included."
    ) in paragraph
    assert "the facility consumed 12.3 MWh." in paragraph
    assert "/" not in paragraph.partition("Family 7B: energy")[0].replace("g CO2e/kWh", "")


def test_a_format_without_lengths_says_so(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["report", *PROJECT, "--format", "csv", "--length", "short"]
    assert main(["--config", str(config), *arguments]) != 0
    assert "--length: csv has one length" in capsys.readouterr().err
