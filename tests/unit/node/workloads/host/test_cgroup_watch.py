"""What trees of cgroups have in common: no watch is left, and watches of what is gone."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from joulebook.node.workloads.contract import Rejections
from joulebook.node.workloads.host.inotify import Inotify
from joulebook.node.workloads.kubernetes.cgroups import PodDirectory, PodTree

UID = "11112222-3333-4444-5555-666677778888"


class Heard:
    def __init__(self, root: Path, inotify: Inotify) -> None:
        self.refuse = Rejections()
        self.inotify = inotify
        self.tree = PodTree(root, inotify, self.refuse, self)
        self.said: list[str] = []

    def cgroup_made(self, spot: PodDirectory, live: bool) -> None:
        self.said.append(f"{'new' if live else 'old'} {spot.path.name}")

    def cgroup_gone(self, spot: PodDirectory) -> None:
        self.said.append(f"gone {spot.path.name}")

    def heard(self) -> list[str]:
        said, self.said = self.said, []
        return said


class FullInotify(Inotify):
    """As where fs.inotify.max_user_watches is used up by others."""

    def watch(self, directory: Path, mask: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(directory))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").touch()
    return tmp_path


def test_without_watches_scans_still_see_all_and_it_is_said_once(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pod = root / "kubepods" / f"pod{UID}"
    (pod / "main").mkdir(parents=True)
    heard = Heard(root, FullInotify())
    heard.tree.scan()
    assert heard.heard() == [f"old pod{UID}", "old main"]
    (pod / "main").rmdir()
    (pod / "next").mkdir()
    heard.tree.scan()
    assert sorted(heard.heard()) == ["gone main", "old next"]
    assert heard.refuse.counts() == {"inotify_full": 6}
    (said,) = [record.getMessage() for record in caplog.records]
    assert "fs.inotify.max_user_watches" in said
    heard.inotify.close()


def test_a_scan_forgets_watches_of_directories_whose_end_was_not_told(root: Path) -> None:
    pod = root / "kubepods" / f"pod{UID}"
    pod.mkdir(parents=True)
    heard = Heard(root, Inotify())
    heard.tree.scan()
    assert heard.tree.present
    pod.rmdir()
    pod.parent.rmdir()
    heard.inotify.read()  # as if the kernel's queue had been full
    heard.tree.scan()
    assert heard.heard() == [f"old pod{UID}", f"gone pod{UID}"]
    assert not heard.tree.present
    assert len(heard.tree._watches) == 1
    heard.inotify.close()
