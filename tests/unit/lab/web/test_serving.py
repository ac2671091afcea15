"""What users see of the models that they serve: figures by hand, and nobody else's."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from tests.unit.lab.collected.nodes import NOVEMBER_S, Node
from tests.unit.lab.web.served import NOW_S, bearer, filled, served

from joulebook.core.money.amounts import Exact
from joulebook.core.report.serving import CounterReading, Produced
from joulebook.lab.collected import served as joined
from joulebook.lab.collected import tokens
from joulebook.lab.collected.database import opened
from joulebook.lab.collected.tokens import ServerReading
from joulebook.units import NS_PER_S

P, OUT, R = Produced.PROMPT, Produced.OUTPUT, Produced.REQUESTS
T = NOW_S - 7200
MODELS = {
    "101": ("ada", "llama-8b", {P: 6000, OUT: 2000, R: 10}),
    "102": ("bob", "secret-model", {P: 1000, OUT: 5, R: 5}),
}


def serving(folder: Path) -> str:
    """A collected ledger with a model of Ada's, and one of Bob's that only prefills; its URL.

    Each has a quarter hour of 90 kJ (0.09 EUR) with tokens, and one of 10 kJ (0.01 EUR) without.
    """
    node = Node("n1", "a" * 32, "lab")
    for job, (user, _, _) in MODELS.items():
        node.label(job, "nlp", user, f"exp-{user}", started_utc_ns=T * NS_PER_S, gpu_count=1)
        node.burn(T, 90_000_000_000, job, Exact(0, 90_000_000, 0), 900 * NS_PER_S)
        node.burn(T + 900, 10_000_000_000, job, Exact(0, 10_000_000, 0), 900 * NS_PER_S)
        node.emit(T, Exact(0, 18_000_000, 0), job)
    node.booked_to_s = NOW_S
    url = filled(folder, node)
    with opened(url) as database:
        for job, (_, name, counts) in MODELS.items():
            workload = tokens.running(database, [(job, "lab")], NOW_S)[job, "lab"]
            for when_s, done in ((T, 0), (T + 900, 1), (T + 1800, 1)):
                made = {kind: CounterReading(n * done, when_s) for kind, n in counts.items()}
                tokens.book(database, [ServerReading(workload, "u", {name: made})], 9)
        joined.settle(database, NOW_S)
    return url


def test_energy_money_and_carbon_per_thousand(tmp_path: Path) -> None:
    url = serving(tmp_path)
    with served(url) as client:
        (found,) = client.get("/api/v1/serving", headers=bearer(url, "ada")).json()
    assert (found["model"], found["experiment"]) == ("llama-8b", "exp-ada")
    assert found["produced"] == {"prompt": 6000, "output": 2000, "requests": 10}
    assert found["active"]["energy_uj"] == 90_000_000_000
    assert found["idle"]["energy_uj"] == 10_000_000_000  # an empty server burns, too
    assert found["idle"]["cost"] == {"EUR": "0.010000000"}
    assert found["per_1000"]["output"] == {
        "energy_uj": 45_000_000_000, "cost": {"EUR": "0.045000000"}, "co2e_mg": "9000.000000000",
    }  # fmt: skip
    assert found["per_1000"]["prompt"]["energy_uj"] == 15_000_000_000
    assert found["per_1000"]["requests"]["cost"] == {"EUR": "9.000000000"}
    assert found["phases_uj_per_1000"] == {}  # both phases share its work


def test_a_list_of_models_in_pages_and_as_csv(tmp_path: Path) -> None:
    url = serving(tmp_path)
    asked = "/api/v1/serving?month=2026-11&limit=1"
    with served(url, admins=("root",)) as client:
        root = bearer(url, "root")
        first = client.get(asked, headers=root)
        rest = client.get(asked, headers=root, params={"after": first.headers["X-Next"]})
        table = client.get(f"{asked}&format=csv", headers=root)
        assert client.get(asked, headers=root, params={"after": "no/such"}).status_code == 400
    models = [each["model"] for answer in (first, rest) for each in answer.json()]
    assert models == ["llama-8b", "secret-model"]
    assert "X-Next" not in rest.headers
    (row,) = csv.DictReader(io.StringIO(table.text))
    assert row["model"] == "llama-8b"
    assert row["produced_output"] == "2000"
    assert (row["active_energy_uj"], row["idle_energy_uj"]) == ("90000000000", "10000000000")
    assert row["per_1000_output_cost_EUR"] == "0.045000000"


def test_the_page_shows_the_same(tmp_path: Path) -> None:
    url = serving(tmp_path)
    with served(url) as client:
        page = client.get("/serving?month=2026-11", headers=bearer(url, "ada")).text
    for text in (
        "llama-8b", "2,000", "energy (Wh)", ">25.0<", "Wh per 1,000 output tokens", ">12.5<",
        "cost (EUR) per 1,000 output tokens", ">0.0450<", "All models: 25.0", "idle",
    ):  # fmt: skip
        assert text in page, text
    assert "Prefill and decode" not in page


def test_a_phase_that_is_measured_is_shown(tmp_path: Path) -> None:
    url = serving(tmp_path)
    with served(url) as client:
        page = client.get("/serving", headers=bearer(url, "bob"))
        (found,) = client.get("/api/v1/serving", headers=bearer(url, "bob")).json()
    assert found["phases_uj_per_1000"] == {"prompt": 90_000_000_000}
    assert "prefill: Wh per 1,000 prompt tokens" in page.text


@pytest.mark.parametrize("path", ["/serving", "/api/v1/serving?month=2026-11"])
def test_nobody_sees_the_models_of_others(tmp_path: Path, path: str) -> None:
    url = serving(tmp_path)
    with served(url, admins=("root",)) as client:
        told = client.get(path, headers=bearer(url, "ada")).text
        assert "secret-model" not in told
        assert "bob" not in told
        assert client.get(path).status_code == 401
        assert "secret-model" in client.get(path, headers=bearer(url, "root")).text


def test_a_month_without_models_says_so(tmp_path: Path) -> None:
    url = serving(tmp_path)
    with served(url) as client:
        shown = client.get("/serving?month=2026-10", headers=bearer(url, "ada")).text
    assert "No model server is read yet" in shown
    assert NOVEMBER_S < T


@pytest.mark.parametrize("form", ["json", "sci", "text", "html", "markdown", "latex"])
def test_statements_have_a_row_for_each_model_and_month(tmp_path: Path, form: str) -> None:
    url = serving(tmp_path)
    with served(url) as client:
        asked = f"/api/v1/statement?experiment=exp-ada&format={form}"
        answer = client.get(asked, headers=bearer(url, "ada"))
    assert "secret-model" not in answer.text
    if form == "sci":
        (score,) = [each for each in answer.json()["scores"] if each["per"] == "token served"]
        assert score["R"] == 8000
    elif form == "json":
        (row,) = answer.json()["served"]
        assert (row["month"], row["model"], row["account"]) == ("2026-11", "llama-8b", "nlp")
        assert row["energy_kwh"] == pytest.approx(0.025)
        assert row["per_1000_output_tokens"]["joules"] == pytest.approx(45_000)
        assert row["per_1000_output_tokens"]["cost"] == {"EUR": pytest.approx(0.045)}
        assert row["idle_cost"] == {"EUR": pytest.approx(0.01)}
    else:
        assert "llama-8b" in answer.text
        assert "45,000" in answer.text  # J per 1,000 output tokens


def test_sci_per_token_counts_idle_servers(tmp_path: Path) -> None:
    """18 g for the work of 8,000 tokens, none for the idle quarter hour, and no embodied figure
    without a known GPU."""
    url = serving(tmp_path)
    with served(url) as client:
        asked = "/api/v1/statement?experiment=exp-ada&format=sci"
        scores = client.get(asked, headers=bearer(url, "ada")).json()
    (score,) = [each for each in scores["scores"] if each["per"] == "token served"]
    low, high = score["g_co2e"]["low"], score["g_co2e"]["high"]
    assert 18 / 8000 < low < high
    assert (low - 18 / 8000) * 8000 == pytest.approx(scores["M_g"]["low"], rel=0.01)
