"""The committed dashboards and rules: parsed, linted, linked and explained."""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from dashboards.generator.panel import Basis
from dashboards.generator.recording import SPENT
from dashboards.generator.shelf import BOARDS, USER_BOARDS, files
from tests.lab.grafana import (
    FILES,
    ROOT,
    as_regex,
    clicked,
    dashboards,
    filled,
    links,
    panels,
    put_in,
    targets,
)

from joulebook import cli
from joulebook.lab.advice.metrics import ADVICE
from joulebook.lab.collect.metrics import COLLECTOR
from joulebook.lab.serving.metrics import SERVING
from joulebook.metrics.catalogue import CATALOGUE

BY_UID = dashboards()
RULES = {
    name: yaml.safe_load((ROOT / f"dashboards/rules/{name}.rules.yaml").read_text())
    for name in ("recording", "alerts")
}
RULE_LIST = [
    (file, rule)
    for file, document in RULES.items()
    for group in document["groups"]
    for rule in group["rules"]
]
BOARD = pytest.mark.parametrize("board", BY_UID.values(), ids=BY_UID)
UIDS = {
    "joulebook-lab",
    "joulebook-experiment",
    "joulebook-workload",
    "joulebook-node",
    "joulebook-health",
    "joulebook-waste",
    "joulebook-compute",
    "joulebook-serving",
    "joulebook-books",
}
UNITS = {
    "kwatth", "suffix: kWh", "watt", "joule", "suffix: kg", "locale", "percentunit", "s", "bytes",
    "celsius", "hertz", "none", "Bps",
}  # fmt: skip
USES = ("total", "increase5m", "increase1h")
METRICS = {
    metric.name: {*metric.labels, "node", "cluster"}
    for metric in (*CATALOGUE, *COLLECTOR, *SERVING, *ADVICE)
}
HANDED_OVER = re.compile(r"\$\{__(?:data\.fields|field\.labels)\.(\w+)\}")
FOREIGN = {
    *("kube_node_labels", "kube_node_status_allocatable", "DCGM_FI_DEV_POWER_USAGE", "up"),
    "ALERTS",
}


def plain(expression: str, board: dict[str, Any], use: str) -> str:
    """The expression with every variable put in."""
    names = [v["name"] for v in board["templating"]["list"]]
    values = (
        {name: "x" for name in names}
        | {"whose": "account", "users": "user"}
        | {"use": use, "step": "1m", "rules": "0", "many": "0"}
    )
    return filled(expression, values, 3600, 60, 60)


def all_expressions() -> list[tuple[str, str]]:
    found = [
        (f"{uid}/{panel['title']}/{target['refId']}/{use}", plain(target["expr"], board, use))
        for uid, board in BY_UID.items()
        for panel, target in targets(board)
        for use in (USES if "$use" in target["expr"] else USES[:1])
    ]
    for uid, board in BY_UID.items():
        for variable in board["templating"]["list"]:
            query = variable["query"]
            text = query["query"] if isinstance(query, dict) else ""
            if text.startswith("query_result("):
                found.append((f"{uid}/${variable['name']}", plain(text[13:-1], board, "total")))
            elif text:
                found.append(
                    (
                        f"{uid}/${variable['name']}",
                        plain(text[13:].rpartition(",")[0], board, "total"),
                    )
                )
    return found + [(rule.get("record") or rule["alert"], rule["expr"]) for _, rule in RULE_LIST]


def selectors(node: object) -> list[Any]:
    """All vector selectors of a parsed expression."""
    if isinstance(node, promql_parser.VectorSelector):
        return [node]
    found: list[Any] = []
    for name in ("expr", "lhs", "rhs", "args", "vector_selector", "vs", "param"):
        inner = getattr(node, name, None)
        for one in inner if isinstance(inner, list) else [inner]:
            if one is not None and not isinstance(one, str | float | int):
                found += selectors(one)
    return found


def test_there_are_the_dashboards_of_the_table_and_no_others() -> None:
    assert set(BY_UID) == {board.uid for board in (*BOARDS, *USER_BOARDS)}
    assert set(BY_UID) >= UIDS
    assert {f"dashboards/{path.name}" for path in FILES} == {
        name for name in files() if name.endswith(".json")
    }


@pytest.mark.parametrize(("name", "text"), sorted(files().items()))
def test_the_committed_files_are_what_the_generator_gives(name: str, text: str) -> None:
    assert (ROOT / name).read_text() == text


@pytest.mark.parametrize(("where", "expression"), all_expressions())
def test_every_expression_parses_and_asks_for_what_there_is(where: str, expression: str) -> None:
    found = selectors(promql_parser.parse(expression))
    assert found or "/$" in where, "only a hidden variable may ask for nothing"
    records = {rule["record"] for _, rule in RULE_LIST if "record" in rule}
    for selector in found:
        matchers = selector.matchers.matchers
        if selector.name in METRICS:
            unknown = {m.name for m in matchers} - METRICS[selector.name] - {"__name__"}
            assert not unknown, f"{selector.name} has no label {unknown}"
        elif selector.name and selector.name.endswith(":total"):  # of what `$use` leaves out
            assert {selector.name.replace(":total", f":{use}") for use in USES[1:]} <= records
        elif selector.name and re.search("_increase(5m|1h)$", selector.name):
            assert re.sub("_increase(5m|1h)$", "_total", selector.name) in METRICS
        elif selector.name:
            assert selector.name in records | FOREIGN, selector.name
        else:
            (by_name,) = (m for m in matchers if m.name == "__name__")
            assert [n for n in METRICS if re.fullmatch(by_name.value, n)]


@pytest.mark.parametrize("label", ["user", "account"])
@pytest.mark.parametrize("uid", [board.uid for board in USER_BOARDS])
def test_a_proxy_can_narrow_every_selector_of_a_users_dashboard(uid: str, label: str) -> None:
    found = [
        selector
        for where, expression in all_expressions()
        if where.startswith(f"{uid}/")
        for selector in selectors(promql_parser.parse(expression))
    ]
    assert len(found) > 20
    for selector in found:
        # Of series that have the label, so that the proxy's matcher finds them.
        assert label in METRICS[selector.name], selector.name
        assert {"user", "account"} & {m.name for m in selector.matchers.matchers}, selector.name
        assert not re.search("node|gpu_power|price|rate|remainder|meter_", selector.name)


@BOARD
def test_dashboard_lint(board: dict[str, Any]) -> None:
    """The rules of grafana/dashboard-linter that concern dashboards, templates and targets."""
    assert board["title"]
    assert board["uid"]
    assert board["editable"] is True
    users = board["uid"] in {each.uid for each in USER_BOARDS}
    assert board["tags"] == ["joulebook-users" if users else "joulebook"]
    assert "__inputs" not in board
    variables = {v["name"]: v for v in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    for name, variable in variables.items():
        if variable["type"] == "query":
            assert variable["datasource"]["uid"] == "${datasource}"
            assert variable["refresh"] == 2, f"{name}: follows the time range"
        if name in ("cluster", "account", "user", "experiment", "node"):
            assert variable["multi"]
            assert variable["includeAll"]
            assert variable["allValue"] == ".*"
    assert "cluster" in variables
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    titles = [panel["title"] for panel in panels(board)]
    assert len(titles) == len(set(titles))


@BOARD
def test_panel_lint(board: dict[str, Any]) -> None:
    for panel in panels(board):
        about = f"{board['uid']}/{panel['title']}"
        assert panel["title"], about
        assert panel["type"] in ("stat", "timeseries", "table", "bargauge"), about
        assert panel["datasource"]["uid"] == "${datasource}", about
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, about
        assert len(panel["description"]) > 20, about
        assert panel["fieldConfig"]["defaults"]["noValue"], f"{about}: what it says when empty"
        assert panel["description"].endswith(tuple(basis.value for basis in Basis)), about
        if panel["type"] == "bargauge":
            assert panel["fieldConfig"]["defaults"]["unit"] != "kwatth", f"{about}: one unit"
        if panel["type"] == "table":
            shown = [o for o in panel["fieldConfig"]["overrides"] if _unit(o)]
            assert len(shown) == len(panel["targets"]), f"{about}: a unit for each figure"
        assert panel["targets"], about
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}", about
            assert "cluster=~`${cluster:regex}`" in target["expr"], about
            assert not re.search(r"\b(rate|irate)\([^[]*\[\d", target["expr"]), about
            if panel["type"] == "timeseries":
                assert target["range"], about
                end = "@ ${__to:date:seconds}"
                at_the_end = target["expr"].replace(f"$__range] {end}", "")
                assert "$__range" not in at_the_end.replace(f"{end} offset $__range", ""), about
            else:
                assert target["instant"], about
                assert "__interval" not in target["expr"], about


def _unit(override: dict[str, Any]) -> bool:
    return any(prop["id"] == "unit" for prop in override["properties"])


@BOARD
def test_panels_do_not_overlap(board: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


@BOARD
def test_variables_that_are_used_are_there(board: dict[str, Any]) -> None:
    names = {v["name"] for v in board["templating"]["list"]}
    for panel, target in targets(board):
        used = set(re.findall(r"\$\{?(\w+)", target["expr"]))
        assert {n for n in used if not n.startswith("__")} <= names, panel["title"]


@BOARD
def test_links_lead_to_dashboards_that_know_what_is_handed_over(board: dict[str, Any]) -> None:
    found = [link for panel in panels(board) for link in links(panel)]
    here = {v["name"] for v in board["templating"]["list"]}
    for link in found:
        uid, _, query = link["url"].removeprefix("/d/").partition("?")
        known = {v["name"] for v in BY_UID[uid]["templating"]["list"]}
        handed_over = {*re.findall(r"var-(\w+)=", query)}
        kept = {*re.findall(r"\$\{(\w+):queryparam\}", query)}
        assert handed_over | kept <= known, link
        assert kept <= here, link
        assert "cluster" in handed_over | kept, f"{link}: names may be there in two clusters"
        assert "${datasource:queryparam}" in query
        assert "${__url_time_range}" in query
    if board["uid"] in ("joulebook-lab", "joulebook-experiment", "joulebook-node"):
        assert found
    menu, leaderboard = board["links"]
    assert leaderboard["url"].endswith("/docs/leaderboard.md")
    assert menu["type"] == "dashboards"
    assert menu["tags"] == board["tags"]
    assert menu["keepTime"]
    assert menu["includeVars"]


def test_names_of_all_sorts_survive_a_click() -> None:
    """Grafana encodes `+` and `&` where it is reported to only; labels that are not there:
    nothing.
    """
    odd = {"cluster": "a", "account": "R&D", "experiment": "a.b+c(d)=#1?", "node": "n", "gpu": "0"}
    for board in BY_UID.values():
        for panel in panels(board):
            for link in links(panel):
                asked = HANDED_OVER.findall(link["url"])
                chosen = clicked(link["url"], odd, {"cluster": ".*"})
                for name in asked:
                    assert chosen[name] == (odd.get(name, ""),), link


def test_choices_go_into_expressions_as_text() -> None:
    assert put_in(".*") == ".*"
    assert put_in(("a.b+c(d)",)) == r"a\\.b\\+c\\(d\\)"
    assert put_in(("x", "y|z")) == "(x|y" + chr(92) * 2 + "|z)"
    assert put_in(("",)) == ""


def test_any_name_can_be_chosen() -> None:
    """A name stands for itself alone, whatever is special in regular expressions."""
    odd = 'a "quoted" name\'s \\d+ (v1.0) {x}/[y]|$^*?'
    for chosen in ((odd,), (odd, "plain")):
        pattern = as_regex(chosen)
        assert "`" not in pattern
        assert all(re.fullmatch(pattern, name) for name in chosen)
        assert not re.fullmatch(pattern, "a")
    assert as_regex(".*") == ".*"


def test_what_a_click_hands_over_is_a_column_or_label_of_the_panel() -> None:
    for board in BY_UID.values():
        for panel in panels(board):
            text = " ".join(target["expr"] for target in panel["targets"])
            for link in links(panel):
                for name in HANDED_OVER.findall(link["url"]):
                    assert re.search(rf"by \([^)]*\b{name}\b", text), (panel["title"], name)


def test_the_drill_down_goes_from_the_lab_to_one_run() -> None:
    def reached(uid: str) -> set[str]:
        return {
            link["url"].removeprefix("/d/").partition("?")[0]
            for panel in panels(BY_UID[uid])
            for link in links(panel)
        }

    assert "joulebook-experiment" in reached("joulebook-lab")
    assert "joulebook-workload" in reached("joulebook-experiment")
    assert {"joulebook-workload", "joulebook-experiment"} <= reached("joulebook-node")


def test_no_variable_lists_workloads() -> None:
    for board in BY_UID.values():
        for variable in board["templating"]["list"]:
            if variable["name"] == "workload":
                assert variable["type"] == "textbox"
            else:
                assert "workload" not in str(variable["query"])


def test_rules_have_the_names_and_labels_that_others_rely_on() -> None:
    for interval in ("5m", "1h"):
        for what, more in (
            ("energy_joules", ", component"),
            ("idle_energy_joules", ", component"),
            ("gpu_seconds", ""),
            ("cost", ", kind, currency"),
            ("co2e_grams", ""),
        ):
            name = f"experiment:joulebook_{what}:increase{interval}"
            (rule,) = (rule for _, rule in RULE_LIST if rule.get("record") == name)
            labels = f"sum by (cluster, user, account, experiment{more})"
            assert rule["expr"].startswith(labels), name
            assert 'experiment!="(expired)"' in rule["expr"]
    names = [rule.get("record") or rule["alert"] for _, rule in RULE_LIST]
    assert len(names) == len(set(names))


def test_every_rule_is_read_by_a_panel_or_an_alert() -> None:
    """Or by a rule that is read: what nobody looks at costs evaluations for nothing."""
    records = {rule["record"]: rule["expr"] for _, rule in RULE_LIST if "record" in rule}
    boards = " ".join(path.read_text() for path in FILES)
    asked = [
        boards.replace("$whose", whose).replace("$users", users).replace("$use", use)
        for whose, users in (("account", "user"), ("experiment", "experiment"))
        for use in USES
    ]
    asked += [rule["expr"] for _, rule in RULE_LIST if "alert" in rule]
    read: set[str] = set()
    while more := {name for name in records if any(name in text for text in asked)} - read:
        read |= more
        asked = [records[name].replace(name, "") for name in more]
    assert read == records.keys()


def test_budgets_that_are_not_set_are_not_evaluated() -> None:
    """Months are read of series that are only there where a budget is set."""
    (spent,) = (rule for _, rule in RULE_LIST if rule.get("record") == SPENT)
    read = {selector.name for selector in selectors(promql_parser.parse(spent["expr"]))}
    assert read == {"joulebook_budget"} | {
        f"budget:joulebook_{what}:increase1h" for what in ("energy_joules", "cost")
    }
    for _, rule in RULE_LIST:
        if rule.get("record", "") in read:
            assert rule["expr"].endswith("and on (cluster) joulebook_budget")


def test_alerts_say_what_to_do_and_where_to_read_on() -> None:
    runbooks = (ROOT / "docs/runbooks.md").read_text()
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in runbooks.splitlines()
        if line.startswith("#")
    }
    for _, rule in RULE_LIST:
        if "alert" not in rule:
            continue
        notes = rule["annotations"]
        assert ";" in notes["summary"], f"{rule['alert']}: what is the matter; what to do"
        assert notes["description"]
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        page, _, anchor = notes["runbook_url"].rpartition("#")
        assert page.endswith("/docs/runbooks.md")
        assert anchor in anchors
        section = re.split(r"^## ", runbooks, flags=re.M)
        (text,) = (part for part in section if part.lower().startswith(f"{anchor}\n"))
        assert len(text) > 300, f"{rule['alert']}: a page that helps"
        assert "\n**Look first** at " in text, rule["alert"]


def test_what_runbooks_tell_to_run_and_to_look_at_is_there() -> None:
    """Commands and their options, and metrics."""
    text = (ROOT / "docs/runbooks.md").read_text()
    text += "".join(rule["annotations"]["summary"] for _, rule in RULE_LIST if "alert" in rule)
    commands = set(re.findall(r"`joulebook ([a-z][^`]*)`", text))
    assert {"doctor", "rates", "release --for 10m", "report --rates"} <= commands
    for command in commands:
        name, *options = command.split()
        with redirect_stdout(StringIO()) as said:
            assert cli.main([name, "--help"]) == 0
        assert all(o in said.getvalue() for o in options if o.startswith("--")), command
    for metric in re.findall(r"`(joulebook_\w+)", text):
        assert metric in METRICS, metric


def test_nobody_edits_by_hand() -> None:
    readme = Path(ROOT / "dashboards/README.md").read_text()
    assert "make docs" in readme
