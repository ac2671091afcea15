"""Event files are deleted only from a directory that would be trusted when read."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from joulebook.node.workloads.host.inotify import Inotify
from joulebook.node.workloads.slurm.event_watcher import EventDirectory

STEM = "101.0"


class Nobody:
    """Listens to nothing."""

    def job_told(self, *_: object) -> None: ...
    def job_unreported(self, stem: str) -> None: ...
    def open_stems(self) -> frozenset[str]:
        return frozenset()


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    path = tmp_path / "jobs"
    fill(path)
    return path


def fill(path: Path) -> list[Path]:
    path.mkdir(mode=0o755)
    files = [path / f"{STEM}.json", path / f"{STEM}.end", path / "102.0.json"]
    for file in files:
        file.write_text("{}")
    return files


def delete(path: Path) -> EventDirectory:
    with contextlib.closing(Inotify()) as inotify:
        directory = EventDirectory(path, inotify, Nobody(), lambda _error: None)
        directory.delete(STEM)
    return directory


def test_both_files_of_a_job_go_and_no_other(jobs: Path) -> None:
    assert not delete(jobs)._undeletable
    assert [file.name for file in jobs.iterdir()] == ["102.0.json"]
    assert not delete(jobs)._undeletable, "gone already"
    assert not delete(jobs.with_name("none"))._undeletable


def test_nothing_is_deleted_where_others_may_write(jobs: Path) -> None:
    jobs.chmod(0o777)
    assert delete(jobs)._undeletable == {STEM}
    assert len(list(jobs.iterdir())) == 3


def test_nothing_is_deleted_through_a_link(tmp_path: Path) -> None:
    others = fill(tmp_path / "elsewhere")
    link = tmp_path / "jobs"
    link.symlink_to(tmp_path / "elsewhere")
    assert delete(link)._undeletable == {STEM}
    assert all(file.exists() for file in others)


def test_what_cannot_be_deleted_is_remembered(jobs: Path) -> None:
    (jobs / f"{STEM}.json").unlink()
    (jobs / f"{STEM}.json").mkdir()
    assert delete(jobs)._undeletable == {STEM}
