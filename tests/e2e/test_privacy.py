"""With `[privacy]` set, a user's name is nowhere: not shown, not kept, not handed over."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path

import pytest
from tests.e2e.lab import Daemon, get, until
from tests.fakes.nvml.scenario import Gpu, Scenario

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

NAME = "ada.lovelace"


@pytest.mark.parametrize("users", ["hmac", "none", "plain"])
def test_a_masked_name_is_in_no_page_and_in_no_file(users: str, tmp_path: Path) -> None:
    events, key, token = tmp_path / "jobs", tmp_path / "key", tmp_path / "token"
    events.mkdir()
    key.write_text("k" * 32)
    token.write_text("0123456789abcdef")
    cards = Scenario.create(tmp_path / "scenario", [Gpu(uuid="GPU-a")])
    settings = {
        "JOULEBOOK_PRIVACY_USERS": users,
        "JOULEBOOK_PRIVACY_KEY_FILE": str(key),
        "JOULEBOOK_SERVER_TOKEN_FILE": str(token),
        "JOULEBOOK_EXPOSITION_ZERO_HOLD_S": "0",
        "JOULEBOOK_TENANTS_PROCESSES_ENABLED": "false",
    }
    event = {
        **{"v": 1, "scheduler": "slurm", "job_id": "7", "restart_count": 0, "gpus": ["GPU-a"]},
        **{"gpu_ids": "uuid", "user": NAME, "uid": 1000, "account": "nlp", "partition": "a100"},
        **{"comment": "experiment=bert-base", "start_ns": time.time_ns()},
    }
    with Daemon(tmp_path / "node", cards, events, settings) as daemon:
        file = events / "7.0.json"
        file.with_suffix(".new").write_text(json.dumps(event))
        file.with_suffix(".new").rename(file)
        until(
            "the job to be booked",
            lambda: daemon.rows(
                "SELECT 1 FROM postings JOIN workloads ON workloads.id = workload_id "
                "WHERE workload = '7' AND energy_uj > 0"
            ),
        )
        until("its series", lambda: 'experiment="bert-base"' in get(f"{daemon.url}/metrics")[1])
        asked = urllib.request.Request(
            f"{daemon.url}/v1/postings?since=0",
            headers={"Authorization": "Bearer 0123456789abcdef"},
        )
        with urllib.request.urlopen(asked, timeout=10) as answer:
            handed_over = answer.read().decode()
        shown = {page: get(f"{daemon.url}{page}")[1] for page in ("/metrics", "/")}
        shown["/v1/postings"] = handed_over
        said = daemon.log()
        # The write-ahead log beside the ledger too.
        kept = {path.name: path.read_bytes() for path in daemon.directory.glob("ledger.db*")}
    for page, text in shown.items():
        assert "bert-base" in text, page
        assert (NAME in text) is (users == "plain"), page
    assert any(b"bert-base" in content for content in kept.values())
    assert any(NAME.encode() in content for content in kept.values()) is (users == "plain")
    assert NAME not in said
