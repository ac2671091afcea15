"""What pages show: months beside one another, order, filters, pictures, colours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tests.unit.lab.collected.nodes import DAY_S, NOVEMBER_S, OCTOBER_S, Node
from tests.unit.lab.web.served import NOW_S, bearer, filled, served, uj

import joulebook.lab.web
from joulebook.core.money.amounts import Exact
from joulebook.lab.collected import bills, compact
from joulebook.lab.collected.database import opened
from joulebook.units import NS_PER_HOUR, NS_PER_S

STATIC = Path(joulebook.lab.web.__file__).parent / "static"


def two_months() -> Node:
    """Jobs of two users in October and November; ada's of November ran for six hours."""
    made = Node("n1", "a" * 32, "lab")
    for job, account, user, experiment in (
        ("101", "nlp", "ada", "bert"), ("102", "nlp", "grace", "retrieval"),
        ("103", "vision", "bob", "vit"), ("104", "nlp", "ada", "bert"),
    ):  # fmt: skip
        start_ns = (NOVEMBER_S + 3600) * NS_PER_S
        made.label(job, account, user, experiment, named=True, gpu_count=1,
                   started_utc_ns=start_ns, ended_utc_ns=start_ns + 6 * NS_PER_HOUR)  # fmt: skip
    made.burn(OCTOBER_S, uj(3), "104", Exact(3), NS_PER_HOUR)
    for hour in range(1, 7):
        made.burn(NOVEMBER_S + hour * 3600, uj(hour), "101", Exact(hour), NS_PER_HOUR // 4)
    made.burn(NOVEMBER_S, uj(2), "102", Exact(9), NS_PER_HOUR)
    made.burn(NOVEMBER_S, uj(40), "103", Exact(1), 2 * NS_PER_HOUR)
    made.burn(NOVEMBER_S, uj(8), "")
    return made


@pytest.fixture
def url(tmp_path: Path) -> str:
    return filled(tmp_path, two_months())


@pytest.fixture
def root(url: str) -> Iterator[TestClient]:
    with served(url, admins=("root",)) as client:
        client.headers.update(bearer(url, "root"))
        yield client


def order(text: str) -> list[str]:
    """The experiments of a page, from above."""
    return re.findall(r'<a href="/experiment[^"]*">([^<]*)</a>', text)


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("energy", ["vit", "bert", "retrieval"]),
        ("-energy", ["retrieval", "bert", "vit"]),
        ("cost-EUR", ["bert", "retrieval", "vit"]),
        ("-cost-EUR", ["vit", "retrieval", "bert"]),
        ("experiment", ["bert", "retrieval", "vit"]),
        ("-experiment", ["vit", "retrieval", "bert"]),
        ("user", ["bert", "vit", "retrieval"]),
        ("-account", ["vit", "bert", "retrieval"]),
        ("hours", ["vit", "bert", "retrieval"]),
    ],
)
def test_experiments_are_in_the_order_of_any_column(
    root: TestClient, sort: str, expected: list[str]
) -> None:
    told = root.get(f"/?month=2026-11&sort={sort}").text
    assert order(told) == expected
    # The column says so, and its link turns the order round.
    assert told.count("aria-sort=") == 1
    other = sort[1:] if sort.startswith("-") else f"-{sort}"
    assert f"sort={other}" in told
    assert root.get(f"/?month=2026-11&sort={sort}x").status_code in {200, 422}


def test_an_order_that_is_none_is_refused(root: TestClient) -> None:
    for sort in ("size", "energy;", "cost-", "--energy", "cost-<script>"):
        assert root.get("/", params={"month": "2026-11", "sort": sort}).status_code == 422


def test_experiments_of_some_months_users_and_accounts(root: TestClient, url: str) -> None:
    def asked(**query: str) -> str:
        return root.get("/", params=query).text

    assert order(asked(month="2026-10")) == ["bert"]
    both = asked(month="2026-10", until="2026-11")
    assert order(both) == ["vit", "bert", "retrieval"]
    assert "2026-10 to 2026-11" in both
    assert "2026-08 to 2026-09" in both, "as many months before"
    assert "74.0" in both, "3 + 21 + 2 + 40 + 8 kWh"
    assert order(asked(month="2026-11", user="ada")) == ["bert"]
    assert order(asked(month="2026-11", account="nlp")) == ["bert", "retrieval"]
    assert order(asked(month="2026-11", account="nlp", user="bob")) == []
    assert "Unattributed" not in asked(month="2026-11", user="ada")
    for wrong in (
        {"month": "2026-11", "until": "2026-10"},
        {"month": "2020-01", "until": "2026-11"},
    ):
        answer = root.get("/", params=wrong)
        assert (answer.status_code, "expected a month from" in answer.text) == (400, True)
    # A filter is no way round: another user's name shows nothing.
    with served(url) as client:
        client.headers.update(bearer(url, "ada"))
        assert order(client.get("/?month=2026-11&user=bob").text) == []


def test_my_page_has_my_month_beside_the_last_one(url: str) -> None:
    with served(url, admins=("root",)) as client:
        told = client.get("/me", headers=bearer(url, "ada")).text
        told = told.replace("\u202f", " ")
        for words in (
            "ada in 2026-11", "21.0 kWh", "2026-10: 3.00 kWh", "21.00 EUR", "/job/101",
            "by month, 21.0 kWh at most", "since=2026-11-01&amp;until=2026-12-01",
        ):  # fmt: skip
            assert words in told
        assert "bob" not in told
        # Administrators have a page of their own, too.
        assert "You used nothing" in client.get("/me", headers=bearer(url, "root")).text
        assert client.get("/me").status_code == 401


def test_jobs_come_in_parts(root: TestClient) -> None:
    told = root.get("/jobs?since=2026-11-01&until=2026-11-02&user=ada").text
    assert "1 to 1 of 1" in told
    assert "/job/101" in told
    assert "/job/103" not in told
    assert "skip=" not in told
    assert "No job used energy" in root.get("/jobs?since=2026-11-01&skip=200").text
    for query in ("since=2026-02-30", "since=x", "skip=-1", "month=2026-13", "since=9999-01-01"):
        assert root.get(f"/jobs?{query}").status_code in {400, 422}


def test_power_over_time_is_drawn_by_quarter_hours_or_days(root: TestClient, url: str) -> None:
    drawn = root.get("/job/101").text
    assert "mean of each 15 min" in drawn
    assert drawn.count('<polygon class="area"') == 1
    assert re.search(r"mean of each \d+ hours", root.get("/experiment?name=bert").text)
    # A month that is kept by day, without an export, is drawn by day.
    with opened(url) as database:
        bills.close(database, 202610, "grace", NOW_S)
        assert list(compact.compact(database, NOW_S + 400 * DAY_S))
    told = root.get("/experiment?name=bert").text
    assert "mean of each day" in told
    most = re.search(r"([\d.,]+)\s(k?W) at most", told)
    assert most is not None
    assert most[2] == "W"
    assert float(most[1]) == pytest.approx(875, abs=1), "21 kWh in a day"


def colours(css: str) -> list[dict[str, str]]:
    """The colours of both modes."""
    return [dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6})", block))
            for block in re.findall(r":root \{[^}]*\}", css)]  # fmt: skip


def luminance(colour: str) -> float:
    """The relative luminance (WCAG 2.2)."""
    digits = colour[1:] if len(colour) == 7 else "".join(c * 2 for c in colour[1:])
    parts = [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1])
def test_colours_have_the_contrast_of_wcag_aa(mode: int) -> None:
    light_and_dark = colours((STATIC / "lab.css").read_text())
    assert len(light_and_dark) == 2
    found = light_and_dark[mode]
    for ground in ("paper", "card"):
        for text in ("ink", "dim", "lit", "idle"):
            assert contrast(found[text], found[ground]) >= 4.5, (text, ground)
        # What is no text: fields, pictures, the mark of the focus.
        for part in ("edge", "lit", "idle"):
            assert contrast(found[part], found[ground]) >= 3, (part, ground)
    # The button's text, and the idle part of a picture on the rest of it.
    assert contrast(found["card"], found["lit"]) >= 4.5


def test_pages_are_used_by_keyboard(root: TestClient) -> None:
    assert ":focus-visible { outline:" in (STATIC / "lab.css").read_text()
    for path in ("/", "/me", "/jobs", "/bills", "/bills/2026-11", "/leaderboards", "/job/101"):
        told = root.get(path).text
        assert told.index('class="skip" href="#main"') < told.index("<header>")
        assert '<main id="main">' in told
        assert "tabindex" not in told.replace('tabindex="0"', "")
        assert told.count("<h1>") == 1
        # Every field has a label around it, and every picture words.
        fields = re.findall(r"<(?:input|select|textarea)(?![^>]*type=\"hidden\")[^>]*>", told)
        assert len(fields) <= told.count("<label")
        assert told.count("<svg") == told.count('role="img"')
        assert " style=" not in told
        assert "javascript:" not in told
