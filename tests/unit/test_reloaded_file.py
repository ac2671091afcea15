"""Files are read again when they change, never half, and the last good value stays."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from joulebook.reloaded_file import Note, ReloadedFile, stamp


def number(path: Path) -> ReloadedFile[int]:
    return ReloadedFile(lambda note: int(note(path).read_text()))


def replaced(path: Path, text: str) -> None:
    """Put another file in its place, as editors and Kubernetes do."""
    new = path.with_name("new")
    new.write_text(text)
    new.replace(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "value"
    path.write_text("1")
    return path


def test_it_is_loaded_again_only_when_it_changed(path: Path) -> None:
    file = number(path)
    assert (file.value, file.refresh()) == (1, False)
    replaced(path, "2")
    assert (file.refresh(), file.value, file.refresh()) == (True, 2, False)


def test_the_same_size_and_time_of_a_replaced_file_is_a_change(path: Path) -> None:
    file = number(path)
    seen = path.stat()
    replaced(path, "3")
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert file.refresh() and file.value == 3


def test_a_failure_keeps_the_last_good_one_and_is_tried_every_time(path: Path) -> None:
    file = number(path)
    replaced(path, "x")
    for _ in range(3):
        with pytest.raises(ValueError, match="invalid literal"):
            file.refresh()
    assert (file.value, file.failures) == (1, 1), "one change, however often it is tried"
    path.unlink()
    with pytest.raises(FileNotFoundError):
        file.refresh()
    assert (file.value, file.failures) == (1, 2)
    path.write_text("1")
    assert file.refresh() and not file.refresh()


def test_the_first_failure_is_the_callers_unless_there_is_a_first_value(path: Path) -> None:
    path.unlink()
    with pytest.raises(FileNotFoundError):
        number(path)
    file = ReloadedFile(lambda note: int(note(path).read_text()), first=7)
    with pytest.raises(FileNotFoundError):
        file.refresh()
    assert file.value == 7
    path.write_text("8")
    assert file.refresh() and file.value == 8


def test_a_change_while_it_is_read_is_seen_at_the_next_look(path: Path) -> None:
    writes = ["2"]

    def load(note: Note) -> int:
        value = int(note(path).read_text())
        if writes:
            replaced(path, writes.pop())
        return value

    file = ReloadedFile(load)
    assert file.value == 1
    assert file.refresh() and file.value == 2


def test_files_that_a_file_names_are_followed_too(tmp_path: Path) -> None:
    index, named = tmp_path / "index", tmp_path / "named"
    index.write_text("named")
    named.write_text("a")

    def load(note: Note) -> str:
        return note(tmp_path / note(index).read_text()).read_text()

    file = ReloadedFile(load)
    replaced(named, "b")
    assert file.refresh() and file.value == "b"
    (tmp_path / "other").write_text("c")
    replaced(index, "other")
    assert file.refresh() and file.value == "c"
    replaced(named, "d")
    assert not file.refresh(), "nobody reads it any more"


def test_what_changed_just_before_it_was_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    file = ReloadedFile(lambda note: reads.append(note(tmp_path)), settle_ns=10**9)
    assert file.refresh() and len(reads) == 2
    later_ns = time.time_ns() + 2 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: later_ns)
    assert file.refresh() and not file.refresh()
    assert len(reads) == 3


def test_absent_and_forbidden_differ(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    absent, beyond = stamp(tmp_path / "none"), stamp(tmp_path / "file/below")
    assert absent.errno and beyond.errno and absent != beyond
