"""The kubelet's log directories: names and uids, read again only when one comes or goes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from joulebook.node.workloads.kubernetes import cgroups
from joulebook.node.workloads.kubernetes.cgroups import LogFolders, log_folders

UID = "0a1b2c3d-1111-2222-3333-44445555666"


def test_names_that_are_none_are_left_out(tmp_path: Path) -> None:
    for name in (f"team-a_web-0_{UID}1", "team-a_web-0", f"a_b_c_{UID}1", f"A_b_{UID}1", "x"):
        (tmp_path / name).mkdir()
    (tmp_path / f"a_file_{UID}2").write_text("")
    (tmp_path / f"a_link_{UID}3").symlink_to(tmp_path)
    (folder,) = log_folders(tmp_path)
    assert (folder.namespace, folder.name, folder.uid) == ("team-a", "web-0", f"{UID}1")
    assert log_folders(None) == log_folders(tmp_path / "none") == []


def test_of_two_the_newer_is_last(tmp_path: Path) -> None:
    for n in (2, 1):
        (tmp_path / f"a_db-0_{UID}{n}").mkdir()
        os.utime(tmp_path / f"a_db-0_{UID}{n}", (1000 - n, 1000 - n))
    assert [folder.uid[-1] for folder in log_folders(tmp_path)] == ["2", "1"]


def test_more_than_the_bound_are_not_looked_at(tmp_path: Path) -> None:
    for n in range(5):
        (tmp_path / f"a_p{n}_{UID}1").mkdir()
    before, cgroups.MAX_FOLDERS = cgroups.MAX_FOLDERS, 3
    try:
        assert len(log_folders(tmp_path)) == 3
    finally:
        cgroups.MAX_FOLDERS = before


def test_it_is_read_again_when_something_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = LogFolders(tmp_path)
    (tmp_path / f"a_p_{UID}1").mkdir()
    assert len(folders()) == 1
    (tmp_path / f"a_q_{UID}2").mkdir()
    assert len(folders()) == 2
    later_ns = time.time_ns() + 10**10
    monkeypatch.setattr(time, "time_ns", lambda: later_ns)
    kept = folders()
    assert folders() is kept
    (tmp_path / f"a_p_{UID}1").rmdir()
    assert len(folders()) == 1
    assert LogFolders(None)() == LogFolders(tmp_path / "none")() == []
