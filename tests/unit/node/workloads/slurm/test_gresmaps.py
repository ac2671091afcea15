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
    assert now == GresMap((Position("/dev/nvidia1"), Position("/dev/nvidia0")))
    inotify.close()


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
