"""Coordinators of accounts as sacctmgr prints them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests.unit.lab.web.served import bearer, filled, served

from joulebook.lab.web.slurm import SlurmCoordinators, coordinators


def test_what_sacctmgr_prints() -> None:
    text = "nlp|ada,grace|\nroot|\nvision|bob\nvision|eve\n|x\nno bar\nodd| , ada ,|\n"
    assert coordinators(text) == {
        "nlp": {"ada", "grace"}, "vision": {"bob", "eve"}, "odd": {"ada"}
    }  # fmt: skip
    assert coordinators("") == {}


def program(folder: Path, script: str) -> None:
    file = folder / "sacctmgr"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_what_was_told_last_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    known = SlurmCoordinators()
    program(tmp_path, "echo 'nlp|bob'")
    known.refresh()
    assert known() == {"nlp": {"bob"}}
    for script in ("echo broken >&2; exit 1", "exec head -c 20000000 /dev/zero"):
        program(tmp_path, script)
        known.refresh()
        assert known() == {"nlp": {"bob"}}
    (tmp_path / "sacctmgr").unlink()
    known.refresh()
    assert known() == {"nlp": {"bob"}}
    assert "lab.slurm_coordinators" in caplog.text
    program(tmp_path, "echo 'nlp|'")
    stop = threading.Event()
    asks = threading.Thread(target=known.run, args=(stop, 0.01), daemon=True)
    asks.start()
    while known():
        stop.wait(0.01)
    stop.set()
    asks.join(60)
    assert not asks.is_alive()


def test_they_see_the_account(tmp_path: Path) -> None:
    url = filled(tmp_path)
    with served(url, scheduler=lambda: {"nlp": {"bob"}}, coordinators={"vision": ("ada",)}) as one:
        one.headers.update(bearer(url, "bob"))
        assert one.get("/api/v1/whoami").json()["coordinates"] == ["nlp"]
        assert one.get("/api/v1/jobs/102").status_code == 200
        assert one.get("/api/v1/jobs/103").status_code == 200, "his own"
        one.headers.update(bearer(url, "grace"))
        assert one.get("/api/v1/jobs/101").status_code == 404
