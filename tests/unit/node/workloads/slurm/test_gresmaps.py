from __future__ import annotations

import threading
from pathlib import Path

import pytest

from joulebook.node.workloads.slurm.gres import GresMap, Position
from joulebook.node.workloads.slurm.gres_conf import GresMaps, find_program, find_slurm_conf

TWO = GresMap((Position("/dev/nvidia0"), Position("/dev/nvidia1")))


def test_it_is_read_once_and_again_when_the_file_is_another(tmp_path: Path) -> None:
    conf = tmp_path / "slurm.conf"
    gres = tmp_path / "gres.conf"
    gres.write_text("Name=gpu File=/dev/nvidia[0-1]\n")
    maps = GresMaps(conf, slurmd="")
    assert maps.of("n1") == (True, TWO)
    (tmp_path / "new").write_text("Name=gpu File=/dev/nvidia7\n")
    (tmp_path / "new").rename(gres)
    assert maps.of("n1") == (True, TWO)
    maps.refresh()
    assert maps.of("n1") == (True, GresMap((Position("/dev/nvidia7"),)))
    assert GresMaps(conf, tmp_path / "none", slurmd="").of("n1") == (True, None)


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
