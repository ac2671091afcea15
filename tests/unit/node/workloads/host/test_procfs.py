"""Whose pids a /proc has: reported by the namespace, or by the kernel's own thread."""

from __future__ import annotations

import os
from pathlib import Path

from joulebook.node.workloads.host import procfs


def test_the_hosts_proc_is_told_from_another_pid_namespaces(tmp_path: Path) -> None:
    assert not procfs.shows_pids_of_host(tmp_path)
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").touch()
    (tmp_path / "2").mkdir()
    (tmp_path / "2/comm").write_text("python3\n")
    assert not procfs.shows_pids_of_host(tmp_path)
    (tmp_path / "2/comm").write_text("kthreadd\n")
    assert procfs.shows_pids_of_host(tmp_path)
    assert not procfs.in_pid_namespace_of_host(tmp_path)
    inode = Path("/proc/self/ns/pid").stat().st_ino
    assert procfs.in_pid_namespace_of_host() is (inode == procfs.HOST_PID_NAMESPACE)


def test_a_process_has_another_number_in_another_proc(tmp_path: Path) -> None:
    assert procfs.own_pid() == os.getpid()
    (tmp_path / "self").symlink_to("4711")
    assert procfs.own_pid(tmp_path) == 4711
    assert procfs.own_pid(tmp_path / "none") == os.getpid()
