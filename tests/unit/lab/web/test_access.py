"""Who may see what, over HTTP; `test_every_route.py` says what nobody may."""

from __future__ import annotations

from pathlib import Path

from tests.unit.lab.web.served import bearer, filled, served, uj

PATHS = (
    "/api/v1/months",
    "/api/v1/months/2026-11",
    "/api/v1/months/2026-11?by=user",
    "/api/v1/months/2026-11?by=account",
    "/api/v1/jobs?since=2026-11-01&until=2026-12-01",
    "/api/v1/jobs?since=2026-11-01&until=2026-12-01&format=csv",
    "/api/v1/jobs/101",
    "/api/v1/jobs/102",
    "/api/v1/jobs/103",
    "/api/v1/statement?experiment=bert",
    "/api/v1/statement?experiment=secret-project&format=html",
    "/api/v1/statement?experiment=vit&format=text",
    "/api/v1/nodes",
    "/",
    "/?month=2026-11&sort=idle",
    "/jobs?month=2026-11",
    "/jobs?month=2026-11&user=grace",
    "/job/102",
    "/experiment?name=secret-project",
    "/experiment?name=bert",
    "/nodes",
    "/me",
    "/?month=2026-11&until=2026-11&account=vision",
    "/jobs?since=2026-11-01&account=vision",
    "/bills",
    "/bills/2026-11",
    "/bills/2026-11?account=vision",
    "/leaderboards",
    "/api/v1/bills",
    "/api/v1/bills/2026-11",
    "/api/v1/bills/2026-11?format=csv",
    "/api/v1/bills/2026-11?format=msgpack",
    "/api/v1/rows",
    "/api/v1/rows?hourly=rates",
    "/api/v1/leaderboards",
    "/advice?month=2026-11",
    "/api/v1/advice/2026-11",
    "/api/v1/advice/2026-11?account=vision&sort=co2e",
)


def test_own_jobs_and_totals_of_accounts(tmp_path: Path) -> None:
    url = filled(tmp_path)
    with served(url) as client:
        client.headers.update(bearer(url, "ada"))
        (job,) = client.get("/api/v1/jobs?since=2026-11-01&until=2026-12-01").json()["jobs"]
        assert (job["id"], job["user"], job["figures"]["energy_uj"]) == ("101", "ada", uj(1))
        assert job["figures"]["cost"] == {"EUR": "1.000000000"}
        (account,) = client.get("/api/v1/months/2026-11?by=account").json()["lines"]
        assert (account["account"], account["figures"]["energy_uj"]) == ("nlp", uj(3))
        assert client.get("/api/v1/months/2026-11?by=lab").status_code == 403


def test_a_coordinator_sees_the_account(tmp_path: Path) -> None:
    url = filled(tmp_path)
    with served(url, coordinators={"nlp": ("bob",)}) as client:
        client.headers.update(bearer(url, "bob"))
        found = client.get("/api/v1/jobs?since=2026-11-01&until=2026-12-01").json()["jobs"]
        assert {job["user"] for job in found} == {"ada", "grace", "bob"}
        assert client.get("/api/v1/statement?experiment=secret-project").status_code == 200


def test_administrators_see_all_and_the_sum_is_whole(tmp_path: Path) -> None:
    url = filled(tmp_path)
    with served(url, admins=("root",)) as client:
        client.headers.update(bearer(url, "root"))
        lines = client.get("/api/v1/months/2026-11?by=lab").json()["lines"]
        assert sum(line["figures"]["energy_uj"] for line in lines) == uj(15)
        (node,) = client.get("/api/v1/nodes").json()
        assert (node["node"], node["missing"]) == ("n1", 0)


def test_totals_may_be_public_and_name_nobody(tmp_path: Path) -> None:
    with served(filled(tmp_path), public=("totals",)) as client:
        told = client.get("/").text
        assert "15" in told
        for name in ("ada", "grace", "bob", "bert", "nlp"):
            assert name not in told
