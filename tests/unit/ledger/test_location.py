from __future__ import annotations

from pathlib import Path

import pytest

from joulebook.errors import ConfigError
from joulebook.ledger import location
from joulebook.ledger.sqlite import SqliteStore


@pytest.mark.parametrize(
    ("fs_type", "words"),
    [
        ("tmpfs", "does not survive"),
        ("overlay", "does not survive"),
        ("nfs4", "cannot keep"),
        ("cifs", "cannot keep"),
        ("lustre", "cannot keep"),
        ("fuse.sshfs", "cannot keep"),
    ],
)
def test_volatile_and_network_file_systems_are_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fs_type: str, words: str
) -> None:
    mounts = tmp_path / "mountinfo"
    inner = str(path.parent).replace("b", r"\142")  # escaped, as proc(5) does with a blank
    mounts.write_text(
        "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        f"23 22 8:2 / {path.parent}x rw - ext4 /dev/sda2 rw\n"
        f"24 22 0:9 / {inner} rw shared:2 master:1 - {fs_type} what rw\n"
    )
    monkeypatch.setattr(location, "_MOUNTS", mounts)
    with pytest.raises(ConfigError, match=rf"{fs_type}.*{words}.*ledger\.allow_volatile = true"):
        SqliteStore(path)
    assert not path.parent.exists()
    SqliteStore(path, allow_volatile=True).close()


def test_the_mount_on_top_counts(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"24 22 0:9 / {path.parent} rw - tmpfs t rw\n22 1 8:1 / / rw - overlay o rw\n"
        f"25 24 8:2 / {path.parent} rw - xfs /dev/sdb rw\n"
    )
    monkeypatch.setattr(location, "_MOUNTS", mounts)
    SqliteStore(path).close()


def test_unknown_file_system_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(location, "_MOUNTS", path / "nowhere")
    with pytest.raises(ConfigError, match=r"ledger\.path"):
        SqliteStore(path)


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ledger\.retention_days = 0"):
        SqliteStore(tmp_path / "ledger.db", retention_days=0)
    with pytest.raises(ConfigError, match=r"ledger\.path = .* is not a file"):
        SqliteStore(tmp_path, allow_volatile=True)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"ledger\.path = .* cannot be used"):
        SqliteStore(tmp_path / "file" / "ledger.db", allow_volatile=True)
