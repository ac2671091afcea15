"""A trace against a meter's CSV: the gain and offset between them, or why there is none."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from joulebook import cli
from joulebook.config import load

WATTS = [60, 300, 150, 420, 90, 380, 220, 60, 330, 270, 180, 410]
"""What the GPU says for 20 s each."""


def write_trace(path: Path, *, counter: bool = True) -> Path:
    devices = [{"name": "GPU-a", "model": "NVIDIA A100"}, {"name": "GPU-b"}]
    header = {"v": 1, "kind": "joulebook-trace", "devices": devices}
    lines: list[dict[str, object]] = [header]
    consumed_uj = 5_000_000
    for tenth in range(200 * len(WATTS)):
        watts, t_ns = WATTS[tenth // 200], tenth * 10**8
        line: dict[str, object] = {"t_ns": t_ns, "gpu": 0, "power_mw": watts * 1000}
        if counter:
            line["energy_uj"] = consumed_uj
        consumed_uj += watts * 100_000
        lines += [line, {"t_ns": t_ns, "gpu": 1, "power_mw": 50_000}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_meter(
    path: Path, *, gain: float = 1.05, offset_w: float = -4.0, late_s: float = 0
) -> Path:
    rows = ["t_s,watts"]
    for tenth in range(200 * len(WATTS)):
        watts = gain * WATTS[tenth // 200] + offset_w + (0.3 if tenth % 2 else -0.3)
        rows.append(f"{tenth / 10 + late_s:.1f},{watts:.2f}")
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("counter", [True, False])
def test_the_table_that_it_prints_is_one_that_the_daemon_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], counter: bool
) -> None:
    trace = write_trace(tmp_path / "trace.jsonl", counter=counter)
    meter = write_meter(tmp_path / "meter.csv", late_s=7)
    words = ["--gpu", "0", "--shift", "-7", "--source", 'PDU "4"', "--meter-error", "0.005"]
    assert cli.main(["calibrate", str(trace), str(meter), *words]) == 0
    said = capsys.readouterr().out
    found = tomllib.loads(said)["calibration"]["GPU-a"]
    assert found["gain"] == pytest.approx(1.05, abs=0.01)
    assert found["offset_w"] == pytest.approx(-4, abs=2)
    assert 0.005 <= found["uncertainty_ratio"] < 0.02
    assert found["source"] == 'PDU "4"'
    config = tmp_path / "joulebook.toml"
    config.write_text(said)
    assert load(config, {}).calibration["GPU-a"].values().gain_ppm == pytest.approx(
        1.05e6, rel=0.01
    )


def test_the_name_of_a_gpu_cannot_end_its_heading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = write_trace(tmp_path / "trace.jsonl")
    hostile = json.dumps('GPU "a"]\n[rates]\x1b')
    trace.write_text(trace.read_text().replace('"GPU-a"', hostile))
    meter = write_meter(tmp_path / "meter.csv")
    assert cli.main(["calibrate", str(trace), str(meter), "--gpu", "0"]) == 0
    found = tomllib.loads(capsys.readouterr().out)
    assert list(found) == ["calibration"]
    assert list(found["calibration"]) == ['GPU "a"] [rates] ']


@pytest.mark.parametrize(
    ("meter", "words", "said"),
    [
        ("t_s,watts\n0,60\n", ["--gpu", "0"], "0 windows"),
        ("time,watts\n0,60\n", ["--gpu", "0"], "no column t_s"),
        ("t_s,watts\n0,60\n0,61\n", ["--gpu", "0"], "3: t_s 0 is not after 0"),
        ("t_s,watts\n0,sixty\n", ["--gpu", "0"], "2: watts = 'sixty': expected"),
        ("t_s,watts\n0,-5\n", ["--gpu", "0"], "2: watts = '-5': expected"),
        ("t_s,watts\n0,nan\n", ["--gpu", "0"], "2: watts = 'nan': expected"),
        ("", ["--gpu", "0"], "no column"),
        ("t_s,watts\n0,60\n", [], "--gpu '': expected 0 to 1"),
        ("t_s,watts\n0,60\n", ["--gpu", "7"], "--gpu '7': expected 0 to 1"),
        ("t_s,watts\n0,60\n", ["--gpu", "0", "--shift", "nan"], "--shift nan"),
        ("\x00\xff", ["--gpu", "0"], "not UTF-8 at byte"),
        ("t_s;watts\n0;60\n", ["--gpu", "0"], "1: no column t_s, watts; expected t_s,watts"),
        ("t_s,watts\n0\n", ["--gpu", "0"], "2: watts = None: expected"),
        ("t_s,watts\ninf,60\n", ["--gpu", "0"], "2: t_s = 'inf': expected"),
        ("t_s,watts\n1e300,60\n", ["--gpu", "0"], "2: t_s = '1e300': expected"),
        ("t_s,watts\n0,1e9\n", ["--gpu", "0"], "2: watts = '1e9': expected"),
        ("t_s,watts\n5,60\n4,60\n", ["--gpu", "0"], "3: t_s 4 is not after 5"),
        (f"t_s,watts\n0,{'6' * 200_000}\n", ["--gpu", "0"], "meter.csv"),
        ("t_s,watts\n0,60\n", ["--gpu", "-1"], "--gpu '-1': expected 0 to 1"),
        ("t_s,watts\n0,60\n", ["--gpu", "9" * 5000], "expected 0 to 1"),
        ("t_s,watts\n0,60\n", ["--gpu", "\u0663"], "expected 0 to 1"),
    ],
)
def test_nonsense_is_refused_and_said(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    meter: str,
    words: list[str],
    said: str,
) -> None:
    trace = write_trace(tmp_path / "trace.jsonl")
    file = tmp_path / "meter.csv"
    file.write_bytes(meter.encode("latin-1"))
    assert cli.main(["calibrate", str(trace), str(file), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_meter_that_is_not_there_and_one_of_another_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = str(write_trace(tmp_path / "trace.jsonl"))
    assert cli.main(["calibrate", trace, str(tmp_path / "no.csv"), "--gpu", "0"]) == 2
    assert "cannot be read" in capsys.readouterr().err
    meter = write_meter(tmp_path / "meter.csv", gain=0.1, offset_w=500)
    assert cli.main(["calibrate", trace, str(meter), "--gpu", "GPU-a"]) == 2
    assert "a gain of 0.1" in capsys.readouterr().err
    # A constant load tells no gain.
    meter = write_meter(tmp_path / "meter.csv")
    assert cli.main(["calibrate", trace, str(meter), "--gpu", "GPU-b"]) == 2
    assert "a load that varies" in capsys.readouterr().err


@pytest.mark.parametrize("header", ["\ufefft_s,watts", "watts,note,t_s,x"])
def test_a_meters_own_columns_and_line_ends_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], header: str
) -> None:
    trace = write_trace(tmp_path / "trace.jsonl")
    meter = write_meter(tmp_path / "meter.csv")
    _, *rows = meter.read_text().splitlines()
    if header.startswith("watts"):
        rows = [f'{row.split(",")[1]},"a\nb",{row.split(",")[0]},1,2,3' for row in rows]
    meter.write_text("\r\n".join([header, *rows, "", ""]), newline="")
    assert cli.main(["calibrate", str(trace), str(meter), "--gpu", "0"]) == 0
    found = tomllib.loads(capsys.readouterr().out)["calibration"]["GPU-a"]
    assert found["gain"] == pytest.approx(1.05, abs=0.01)


@pytest.mark.parametrize(
    ("jump_uj", "said"), [(-5_000_000_000, "trace.jsonl:2004: energy_uj falls"), (10**15, "")]
)
def test_a_counter_that_is_reset_is_refused_and_a_jump_costs_no_more_than_its_window(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], jump_uj: int, said: str
) -> None:
    trace, meter = write_trace(tmp_path / "trace.jsonl"), write_meter(tmp_path / "meter.csv")
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    for line in lines[1:]:
        if line["t_ns"] > 100 * 10**9 and "energy_uj" in line:
            line["energy_uj"] = max(line["energy_uj"] + jump_uj, 0)
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code = cli.main(["calibrate", str(trace), str(meter), "--gpu", "0"])
    shown = capsys.readouterr()
    assert (code, said in shown.err) == (2 if said else 0, True)
    if not said:
        found = tomllib.loads(shown.out)["calibration"]["GPU-a"]
        assert found["gain"] == pytest.approx(1.05, abs=0.02)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0\xff",
        "[]\n",
        '{"v": 1}\n',
        '{"v": 9, "kind": "joulebook-trace", "devices": [{"name": "a"}]}\n',
        '{"v": 1, "kind": "joulebook-trace", "devices": []}\n',
        '{"v": 1, "kind": "joulebook-trace", "devices": [{"name": "a"}]}\n',
        '{"v": 1, "kind": "joulebook-trace", "devices": [{"name": "a"}]}\n{"t_ns": -1}\n',
        '{"v": 1, "kind": "joulebook-trace", "devices": [{"name": "a"}]}\n'
        '{"t_ns": 5, "gpu": 0, "energy_uj": 1e99}\n',
        '{"v": 1, "kind": "joulebook-trace", "devices": [{"name": "a"}]}\n'
        '{"t_ns": 5, "gpu": 7, "power_mw": 1}\n',
        '{"v": 1, "kind": "joulebook-trace", "devices": [{"name": "a"}]}\n'
        '{"t_ns": 5, "gpu": 0, "power_mw": 1}\n{"t_ns": 4, "gpu": 0, "power_mw": 1}\n',
        "[" * 100_000,
    ],
)
def test_a_trace_that_is_none_is_refused_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    trace, meter = tmp_path / "trace.jsonl", write_meter(tmp_path / "meter.csv")
    trace.write_bytes(text.encode("latin-1"))
    assert cli.main(["calibrate", str(trace), str(meter), "--gpu", "0"]) == 2
    said = capsys.readouterr().err
    assert ("trace.jsonl" in said or "windows" in said) and "Traceback" not in said
