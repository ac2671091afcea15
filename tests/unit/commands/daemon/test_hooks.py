"""`joulebook hooks` beside what a site has: nothing of the site's is touched or lost."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from joulebook.cli import main
from joulebook.commands.daemon import hooks
from joulebook.commands.daemon.hooks import hook_files, is_ours, read_slurm_conf


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """A site's folder with a Prolog of its own."""
    (tmp_path / "slurm").mkdir()
    site = tmp_path / "slurm" / "site_prolog.sh"
    site.write_text("#!/bin/sh\nexit 0\n")
    site.chmod(0o755)
    return tmp_path / "slurm"


@pytest.fixture(autouse=True)
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hooks, where the package has them."""
    where = tmp_path / "lib" / "joulebook" / "hooks"
    where.mkdir(parents=True)
    for name in hooks.SCRIPTS.values():
        (where / name).write_text("#!/bin/sh\n")
        (where / name).chmod(0o755)
    monkeypatch.setattr(hooks, "PACKAGED", where)
    return where


def call(etc: Path, action: str) -> int:
    return main(["hooks", action, "--slurm-conf", str(etc / "slurm.conf")])


def conf(etc: Path, text: str) -> None:
    (etc / "slurm.conf").write_text(text)


def applied(etc: Path, printed: str) -> None:
    """Write what was asked for into slurm.conf, as an administrator would."""
    lines = [line.strip() for line in printed.splitlines() if line.startswith("  ")]
    kept = [
        line
        for line in (etc / "slurm.conf").read_text().splitlines()
        if line.partition("=")[0] not in {each.partition("=")[0] for each in lines}
    ]
    conf(etc, "\n".join([*kept, *lines]) + "\n")


def ours(etc: Path, key: str) -> list[Path]:
    return [file for file in hook_files(read_slurm_conf(etc / "slurm.conf"), key) if is_ours(file)]


def test_beside_a_single_script_of_the_site(
    etc: Path, packaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf(etc, "ClusterName=lab\nProlog=site_prolog.sh\n")
    before = (etc / "slurm.conf").read_bytes()
    assert call(etc, "install") == 0
    printed = capsys.readouterr().out
    assert (etc / "slurm.conf").read_bytes() == before, "slurm.conf is the site's"
    assert f"  Prolog={etc}/prolog.d/*" in printed
    assert f"  Epilog={etc}/epilog.d/*" in printed
    assert "scontrol reconfigure" in printed
    assert (etc / "prolog.d/site_prolog.sh").resolve() == (etc / "site_prolog.sh").resolve()
    assert (etc / "prolog.d/joulebook.sh").resolve() == packaged / "prolog.sh"
    applied(etc, printed)
    files = hook_files(read_slurm_conf(etc / "slurm.conf"), "Prolog")
    assert {file.name for file in files} == {"site_prolog.sh", "joulebook.sh"}
    assert call(etc, "install") == 0
    printed = capsys.readouterr().out
    assert "already" in printed
    assert "scontrol" not in printed, "a second time there is nothing to do"


def test_into_a_directory_that_slurm_runs_already(
    etc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("prolog.d", "epilog.d"):
        (etc / name).mkdir()
    conf(etc, "Prolog=prolog.d/*.sh\nEpilog=epilog.d/*\n")
    assert call(etc, "install") == 0
    assert "scontrol" not in capsys.readouterr().out
    assert [len(ours(etc, key)) for key in hooks.SCRIPTS] == [1, 1]
    assert call(etc, "remove") == 0
    assert [ours(etc, key) for key in hooks.SCRIPTS] == [[], []]


def test_no_hooks_yet(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf(etc, "ClusterName=lab\n")
    call(etc, "install")
    applied(etc, capsys.readouterr().out)
    assert [len(ours(etc, key)) for key in hooks.SCRIPTS] == [1, 1]
    call(etc, "remove")
    printed = capsys.readouterr().out
    assert f"  Prolog={etc}/prolog.d/*" in printed and "take out of" in printed
    for key in hooks.SCRIPTS:
        # SLURM drains nodes where a pattern means no file.
        (left,) = hook_files(read_slurm_conf(etc / "slurm.conf"), key)
        assert subprocess.run([left], check=False).returncode == 0
        assert not is_ours(left)
    call(etc, "install")
    assert [len(ours(etc, key)) for key in hooks.SCRIPTS] == [1, 1]
    call(etc, "remove")
    conf(etc, "ClusterName=lab\n")
    capsys.readouterr()
    assert call(etc, "remove") == 0
    assert "joulebook.sh removed" in capsys.readouterr().out
    assert not list((etc / "prolog.d").iterdir())
    assert call(etc, "remove") == 0
    assert "nothing of Joulebook's" in capsys.readouterr().out


def test_named_in_slurm_conf_by_hand(
    etc: Path, packaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf(etc, f"Prolog={packaged}/prolog.sh\nEpilog={packaged}/epilog.sh\n")
    call(etc, "install")
    assert "scontrol" not in capsys.readouterr().out
    call(etc, "remove")
    assert f"  Prolog={packaged}/prolog.sh" in capsys.readouterr().out


def test_hooks_that_cannot_be_run_are_copied(
    etc: Path, packaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in hooks.SCRIPTS.values():
        (packaged / name).chmod(0o644)
    conf(etc, "ClusterName=lab\n")
    call(etc, "install")
    placed = etc / "epilog.d" / "joulebook.sh"
    assert not placed.is_symlink()
    assert placed.stat().st_mode & 0o111


def test_no_slurm_conf(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(etc, "install") == 2
    said = capsys.readouterr().err
    assert str(etc / "slurm.conf") in said
    assert "--slurm-conf" in said
