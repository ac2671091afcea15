from __future__ import annotations

import os
from pathlib import Path

import pytest

from joulebook.core.attribution.claims import Evidence
from joulebook.errors import InputError
from joulebook.node.workloads.host.inotify import Inotify
from joulebook.node.workloads.slurm.job_mapping import Mapped, MappingDirectory, parse, read_mapping
from joulebook.untrusted_files import trusted_owners

DCGM, GPUSTAT = Evidence.JOB_MAPPING, Evidence.GPUSTAT


@pytest.mark.parametrize(
    ("name", "text", "evidence", "mapped"),
    [
        ("0", "101\n", DCGM, {Mapped("101", "0", "nvml", 1, 1, "0")}),
        ("0", "0\n", DCGM, set()),
        ("0", "", DCGM, set()),
        (
            "3",
            "101\n102\n101\n",
            DCGM,
            {Mapped("101", "3", "nvml", 1, 2, "3"), Mapped("102", "3", "nvml", 1, 2, "3")},
        ),
        ("0.3", "101", DCGM, {Mapped("101", "0.3", "nvml", 1, 1, "0.3")}),
        ("1", "45916256 262563\n", GPUSTAT, {Mapped("45916256", "1", "gres", 1, 1, "1", 262563)}),
        (
            "GPU-12345678-x",
            "7",
            GPUSTAT,
            {Mapped("7", "GPU-12345678-x", "gres", 1, 1, "GPU-12345678-x")},
        ),
        ("1", "", GPUSTAT, set()),
    ],
)
def test_formats(name: str, text: str, evidence: Evidence, mapped: set[Mapped]) -> None:
    assert parse(name, text, evidence) == mapped


@pytest.mark.parametrize("text", ["abc", "-1", "1; rm", "101_7", "9" * 40, "\ufffd"])
@pytest.mark.parametrize("evidence", [DCGM, GPUSTAT])
def test_a_job_id_that_is_none(text: str, evidence: Evidence) -> None:
    with pytest.raises(InputError) as caught:
        parse("0", text, evidence)
    assert caught.value.reason == "bad_job_id"


def test_a_directory_with_good_and_bad_in_it(tmp_path: Path) -> None:
    (tmp_path / "0").write_text("101\n")
    (tmp_path / "1").write_text("what\n")
    (tmp_path / "README").write_text("what\n")
    (tmp_path / "2").symlink_to(tmp_path / "0")
    os.mkfifo(tmp_path / "3")
    (tmp_path / "4").write_text("104")
    os.chown(tmp_path / "4", 12345, 12345)
    found, rejected = read_mapping(tmp_path, DCGM, trusted_owners())
    (each,) = found
    assert each._replace(since_ns=0) == Mapped("101", "0", "nvml", 1, 1, "0")
    assert each.since_ns == (tmp_path / "0").stat().st_ctime_ns
    assert sorted(e.reason for e in rejected) == [
        "bad_job_id", "foreign_owner", "not_regular", "symlink",
    ]  # fmt: skip
    tmp_path.chmod(0o777)
    with pytest.raises(InputError):
        read_mapping(tmp_path, DCGM, trusted_owners())


def test_it_is_followed_and_comes_and_goes(tmp_path: Path) -> None:
    rejected: list[InputError] = []
    inotify = Inotify()
    place = tmp_path / "gpustat"
    mapping = MappingDirectory(place, GPUSTAT, inotify, rejected.append)
    assert mapping.read() is None
    assert not mapping.whole
    place.mkdir()
    assert mapping.read() == frozenset()
    watched: bool = mapping.whole
    assert watched
    (place / "0").write_text("7 1000")
    assert all(mapping.handle(event) for event in inotify.read())
    assert mapping.dirty
    said = mapping.read()
    assert said is not None
    assert {each._replace(since_ns=0) for each in said} == {
        Mapped("7", "0", "gres", 1, 1, "0", 1000)
    }
    (place / "0").write_text("bad")
    for _ in range(3):
        assert mapping.read() == frozenset()
    assert [e.reason for e in rejected] == ["bad_job_id"], "counted once, not at every look"
    (place / "0").unlink()
    place.rmdir()
    assert any(mapping.handle(event) for event in inotify.read())
    assert mapping.read() is None
    assert not mapping.whole
    inotify.close()
