from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from joulebook.node.workloads.host.inotify import Inotify
from joulebook.node.workloads.slurm.gres import GresMap, Position
from joulebook.node.workloads.slurm.gres_conf import find_program, find_slurm_conf
from joulebook.node.workloads.slurm.gres_maps import GresMaps, is_only_asked

TWO = GresMap((Position("/dev/nvidia0"), Position("/dev/nvidia1")))
SWAPPED = GresMap(TWO.positions[::-1])


def known(maps: GresMaps) -> GresMap | None:
    for _ in range(1000):
        settled, gres = maps.of("n1")
        if settled:
            return gres
        time.sleep(0.005)
    raise AssertionError("never known")


def edit(path: Path, text: str) -> None:
    path.with_name("new").write_text(text)
    path.with_name("new").rename(path)


@pytest.mark.parametrize("slurmd", ["", "/bin/false"])
def test_an_edit_counts_once_slurmd_has_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, slurmd: str
) -> None:
    monkeypatch.setattr("joulebook.node.workloads.slurm.gres_maps._TOGETHER_NS", 300_000_000)
    for name in ("slurm.conf", "cgroup.conf"):
        (tmp_path / name).touch()
    gres = tmp_path / "gres.conf"
    gres.write_text("Name=gpu File=/dev/nvidia[0-1]\n")
    maps = GresMaps(tmp_path / "slurm.conf", slurmd=slurmd)
    (tmp_path / "slurm.conf").write_text("NodeName=n1 Gres=gpu:2\n")
    inotify = Inotify()
    maps.watch(inotify)

    def see(*opened: str) -> GresMap | None:
        time.sleep(0.4)
        for name in opened:
            (tmp_path / name).read_text()
        for event in inotify.read():
            maps.handle(event)
        return known(maps)

    assert known(maps) == TWO
    edit(gres, "Name=gpu File=/dev/nvidia[0-1]   # the same\n")
    assert known(maps) == TWO
    assert caplog.records == []
    edit(gres, "Name=gpu File=/dev/nvidia[1,0]\n")
    for opened in ((), ("gres.conf",), ("slurm.conf",), ("slurm.conf", "gres.conf")):
        assert see(*opened) == TWO
    assert len(caplog.records) == 1
    assert "has not read it" in caplog.text
    now = see("slurm.conf", "cgroup.conf", "gres.conf")
    assert now == SWAPPED
    inotify.close()


@pytest.mark.parametrize(
    ("seen", "after", "expected"),
    [
        (True, "", TWO),
        (False, "", None),
        (True, "slurmd", SWAPPED),
        (False, "slurmd", SWAPPED),
        (True, "reconfigure", SWAPPED),
        (False, "reconfigure", SWAPPED),
        (False, "same", TWO),
    ],
)
def test_an_edit_before_a_restart_of_the_daemon_counts_once_slurmd_has_read_it(
    tmp_path: Path, seen: bool, after: str, expected: GresMap | None
) -> None:
    """`seen`: the daemon before knew of the edit. `after`: what happened after it."""
    conf, gres, proc = tmp_path / "slurm.conf", tmp_path / "gres.conf", tmp_path / "proc"
    conf.write_text("NodeName=n1 Gres=gpu:2\n")
    gres.write_text("Name=gpu File=/dev/nvidia[0-1]\n")
    process = proc / "77"
    process.mkdir(parents=True)
    (process / "cmdline").write_bytes(b"/usr/sbin/slurmd\0-D\0")

    def started(ticks: int) -> None:
        (process / "stat").write_text(f"77 (slurmd) S 1 77 77 0{' 0' * 14} {ticks}")

    started(0)
    before = GresMaps(conf, slurmd="", kept=tmp_path / "kept", proc=proc)
    assert known(before) == TWO
    edit(gres, f"Name=gpu File=/dev/nvidia[{'0-1' if after == 'same' else '1,0'}]\n")
    if seen:
        assert known(before) == TWO
    if after == "slurmd":
        started((time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 3_600 * 10**9) // 10**7)
    elif after == "reconfigure":
        reads(before, tmp_path)
    maps = GresMaps(conf, slurmd="", kept=tmp_path / "kept", proc=proc)
    assert known(maps) == expected
    reads(maps, tmp_path)
    assert known(maps) == (TWO if after == "same" else SWAPPED)


def reads(maps: GresMaps, directory: Path) -> None:
    """What a reconfigured slurmd does."""
    maps._loaded_ns = 0  # long ago
    inotify = Inotify()
    maps.watch(inotify)
    for name in ("slurm.conf", "gres.conf"):
        (directory / name).read_text()
    for event in inotify.read():
        maps.handle(event)
    inotify.close()


@pytest.mark.parametrize("kept", ["", "[]", "{", '{"nodes": 7}', "{}" * 700_000])
def test_what_the_daemon_before_did_not_write_is_nothing(tmp_path: Path, kept: str) -> None:
    (tmp_path / "slurm.conf").write_text("NodeName=n1 Gres=gpu:2\n")
    (tmp_path / "gres.conf").write_text("Name=gpu File=/dev/nvidia[0-1]\n")
    (tmp_path / "kept").write_text(kept)
    assert known(GresMaps(tmp_path / "slurm.conf", slurmd="", kept=tmp_path / "kept")) == TWO


def test_who_only_asks_what_slurmd_would_read(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").write_bytes(b"/usr/sbin/slurmd\0-N\0n1\0")
    (tmp_path / "8").mkdir()
    assert not is_only_asked(tmp_path)
    (tmp_path / "8" / "cmdline").write_bytes(b"slurmd\0-G\0")
    assert is_only_asked(tmp_path)


def test_where_nobody_knows_the_order(tmp_path: Path) -> None:
    assert GresMaps(tmp_path / "slurm.conf", slurmd="").of("n1") == (True, None)


def test_slurmd_is_asked_without_making_anyone_wait(tmp_path: Path) -> None:
    log = tmp_path / "log"
    slurmd = tmp_path / "slurmd"
    slurmd.write_text(
        f"#!/bin/sh\nsleep 0.2; echo x >> {log}\n"
        'for n in 0 1; do echo "Gres Name=gpu Count=1 ID=1 File=/dev/nvidia$n"; done\n'
    )
    slurmd.chmod(0o755)
    done = threading.Event()
    maps = GresMaps(tmp_path / "slurm.conf", slurmd=str(slurmd))
    maps.changed = done.set
    assert maps.of("n1") == (False, None)
    assert maps.of("n1") == (False, None)
    assert done.wait(5)
    assert maps.of("n1") == (True, TWO)
    assert log.read_text() == "x\n"


def test_where_slurm_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "x.conf"))
    assert find_slurm_conf() == tmp_path / "x.conf"
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "scontrol").touch(mode=0o755)
    assert find_program("scontrol") == str(tmp_path / "scontrol")
    assert find_program("no-such-program") == ""
