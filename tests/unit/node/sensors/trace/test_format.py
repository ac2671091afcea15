"""The trace format: strict, and an error names the file and the line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from joulebook.core.energy.readings import Component
from joulebook.errors import ConfigError
from joulebook.node.sensors.trace import format
from joulebook.node.sensors.trace.format import TraceRecord, read_trace

HEADER = {"v": 1, "kind": "joulebook-trace", "devices": [{"name": "GPU-a"}, {"name": "GPU-b"}]}
COUNTED = [{"t_ns": t, "gpu": 0, "energy_uj": 10 * t} for t in (0, 5, 9)]
POWERED = [{"t_ns": t, "gpu": 1, "power_mw": 7} for t in (1, 4)]


def written(path: Path, *lines: object) -> Path:
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_a_trace_is_read_by_device(tmp_path: Path, name: str) -> None:
    header = HEADER | {"source": "here", "licence": "MIT"}
    failed = {"t_ns": 7, "gpu": 0, "failed": "timeout"}
    lines = [COUNTED[0], POWERED[0], COUNTED[1], failed, COUNTED[2], POWERED[1]]
    trace = read_trace(written(tmp_path / name, header, *lines))
    assert [device.name for device in trace.header.devices] == ["GPU-a", "GPU-b"]
    assert trace.header.devices[0].component is Component.GPU
    assert (trace.header.source, trace.header.licence) == ("here", "MIT")
    assert trace.records == (
        (
            TraceRecord(0, 0, 0),
            TraceRecord(5, 0, 50),
            TraceRecord(7, 0, failed="timeout"),
            TraceRecord(9, 0, 90),
        ),
        (TraceRecord(1, 1, power_mw=7), TraceRecord(4, 1, power_mw=7)),
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "truncated"),
        ("[]", "Expected `object`, got `array`"),
        ('{"t_ns":20,"gpu":0,"watts":5}', "unknown field `watts`"),
        ('{"gpu":0,"energy_uj":5}', "missing required field `t_ns`"),
        ('{"t_ns":20.5,"gpu":0,"energy_uj":500}', "Expected `int`, got `float`"),
        ('{"t_ns":20,"gpu":0,"energy_uj":-1}', "Expected `int` >= 0"),
        ('{"t_ns":20,"gpu":2,"energy_uj":500}', "gpu 2: the header has 2 devices"),
        ('{"t_ns":9,"gpu":0,"energy_uj":500}', "t_ns 9 is not after 9"),
        ('{"t_ns":20,"gpu":0,"energy_uj":89}', "energy_uj falls below 90"),
        ('{"t_ns":20,"gpu":0,"power_mw":9}', "no energy_uj, which the device had"),
        ('{"t_ns":20,"gpu":1,"energy_uj":9}', "energy_uj of a device that had none"),
        ('{"t_ns":20,"gpu":1}', "no power_mw"),
        ("", "truncated"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = written(tmp_path / "t.jsonl", HEADER, *COUNTED, *POWERED, line + "\n")
    with pytest.raises(ConfigError) as caught:
        read_trace(path)
    assert str(caught.value).startswith(f"{path}:7: ")
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("", "no header of a trace with version 1"),
        (HEADER | {"v": 2}, "no header of a trace with version 1: Invalid enum value 2"),
        (HEADER | {"kind": "other"}, "Invalid enum value 'other'"),
        (HEADER | {"devices": []}, "length >= 1"),
        (HEADER | {"devices": [{"name": ""}]}, "length >= 1"),
        (HEADER | {"devices": [{"name": "GPU-a"}] * 2}, "two devices have the same name"),
        (HEADER | {"extra": 1}, "unknown field `extra`"),
        (HEADER | {"devices": [{"name": "x", "component": "fan"}]}, "Invalid enum value 'fan'"),
    ],
)
def test_a_bad_header_is_named(tmp_path: Path, header: object, problem: str) -> None:
    path = written(tmp_path / "t.jsonl", header, *COUNTED)
    with pytest.raises(ConfigError) as caught:
        read_trace(path)
    assert str(caught.value).startswith(f"{path}:1: ")
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "lines",
    [
        [*COUNTED, POWERED[0]],
        [*COUNTED],
        [
            *COUNTED,
            {"t_ns": 1, "gpu": 1, "failed": "timeout"},
            {"t_ns": 2, "gpu": 1, "power_mw": 1},
        ],
        [*COUNTED, {"t_ns": 1, "gpu": 1}],
    ],
)
def test_every_device_must_have_something_to_play(tmp_path: Path, lines: list[object]) -> None:
    path = written(tmp_path / "t.jsonl", HEADER, *lines)
    with pytest.raises(ConfigError, match=r"GPU-b: fewer than 2|neither energy_uj nor power_mw"):
        read_trace(path)


def test_a_file_that_is_not_there_or_cut_off(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.jsonl: cannot be read at its start: .*No such"):
        read_trace(tmp_path / "none.jsonl")
    path = tmp_path / "plain.jsonl.gz"
    path.write_text(json.dumps(HEADER))
    with pytest.raises(ConfigError, match=r"cannot be read at its start: Not a gzipped file"):
        read_trace(path)
    lines = [{"t_ns": i, "gpu": 0, "energy_uj": i * 7919 % 3 + i * 4} for i in range(9000)]
    path = written(tmp_path / "t.jsonl.gz", HEADER | {"devices": [{"name": "GPU-a"}]}, *lines)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ConfigError, match=r"cannot be read after line \d+: .*ended before"):
        read_trace(path)


def test_a_packed_trace_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte that is a gigabyte unpacked."""
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb") as file:
        file.write(b" " * (8 << 20))
    with pytest.raises(ConfigError, match="larger than a trace"):
        read_trace(path)
    monkeypatch.setattr(format, "MOST_BYTES", 1 << 10)
    with gzip.open(path, "wb") as file:
        file.write(b'{"v":1,"kind":"joulebook-trace","devices":[{"name":"GPU-0"}]}\n')
        for n in range(100):
            file.write(b'{"t_ns":%d,"gpu":0,"power_mw":1}\n' % (n + 1))
    with pytest.raises(ConfigError, match=r"bomb.jsonl.gz:\d+: larger than a trace"):
        read_trace(path)
