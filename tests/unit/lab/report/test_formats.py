"""The formats: valid by their own libraries and schemas, and no name gets out of its place."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import types
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml
from huggingface_hub import ModelCardData, metadata_load
from tests.unit.lab.report.hostile import HOSTILE
from tests.unit.lab.report.worked import NODE, OWNER, RATES, T0_S, TRIALS, WANTED, account

from joulebook.core.evidence import Method
from joulebook.core.report.dataset import ReportWorkload
from joulebook.core.report.rollup import recharged
from joulebook.core.report.run_roles import RoleChoice
from joulebook.core.workloads import Labels
from joulebook.lab.report import statement
from joulebook.lab.report.about import About
from joulebook.lab.report.formats import FORMATS, boamps, html, latex, markdown, renderer, runs_csv
from joulebook.lab.report.formats.json import schema
from joulebook.lab.report.model import Statement
from joulebook.lab.report.wording import sentences

MADE_S = T0_S + 86_400.0


def made(name: str = "", about: About | None = None) -> Statement:
    """The worked example; with `name`, everything that has a name is called that."""
    whole = recharged(account(), RATES, WANTED).account
    owner = Labels(name, name, name) if name else OWNER
    workloads = {
        trial: ReportWorkload(
            trial,
            display=name or trial.workload,
            name=name,
            labels=owner,
            extra={"gpu_model": name},
        )
        for trial in TRIALS
    }
    whole = msgspec.structs.replace(whole, workloads=workloads, source=name or f"ledger of {NODE}")
    if name:
        whole = msgspec.structs.replace(
            whole,
            models={(name, meter): name for _, meter in whole.models},
            postings=tuple(row._replace(node=name) for row in whole.postings),
            rates=tuple(
                row._replace(node=name, used=row.used._replace(source=name)) for row in whole.rates
            ),
            warnings=(name,),
        )
    reported = statement.StatementContext(MADE_S, zone=name or "DE")
    choice = RoleChoice("", (), {TRIALS[0].workload: name or "wrong data"})
    said = about or (About(title=name, region=name, training_type=name) if name else About())
    return statement.make(whole, said, choice, reported)


def every_name() -> Iterator[tuple[str, Statement]]:
    for name in HOSTILE:
        yield name, made(name)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_text_and_the_same_each_time(name: str) -> None:
    first = renderer(name)(made())
    assert first.endswith("\n")
    assert first == renderer(name)(made())


def test_json_is_as_its_published_schema_says(repository: Path) -> None:
    published = json.loads((repository / "docs/schema/report.schema.json").read_text())
    assert published == json.loads(schema())
    validator = jsonschema.Draft202012Validator(published)
    validator.check_schema(published)
    for each in (made(), *(found for _, found in every_name())):
        validator.validate(json.loads(renderer("json")(each)))
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**json.loads(renderer("json")(made())), "energy": {"gpu": 1}})


def test_a_model_card_says_grams_and_is_taken_by_the_hub(tmp_path: Path) -> None:
    about = About(training_type="fine-tuning", region="Frankfurt, Germany")
    text = renderer("hf")(made(about=about))
    path = tmp_path / "README.md"
    path.write_text(text + "\n# A model\n")
    data = metadata_load(path)
    assert data is not None
    card = ModelCardData(**data)
    emissions = card.to_dict()["co2_eq_emissions"]  # type: ignore[no-untyped-call]
    assert emissions == {
        "emissions": 10_500.0,
        "source": emissions["source"],
        "training_type": "fine-tuning",
        "geographical_location": "Frankfurt, Germany",
        "hardware_used": "8 x NVIDIA H100 80GB HBM3",
    }
    assert emissions["source"].startswith("joulebook ")
    assert "30.00 kWh of the facility over 4 runs" in emissions["source"]


def test_no_name_adds_a_key_to_a_model_card() -> None:
    for _, each in every_name():
        documents = [d for d in yaml.safe_load_all(renderer("hf")(each)) if d is not None]
        (card,) = documents
        assert card.keys() == {"co2_eq_emissions"}
        assert card["co2_eq_emissions"].keys() <= {
            "emissions", "source", "training_type", "geographical_location", "hardware_used",
        }  # fmt: skip
        assert card["co2_eq_emissions"]["emissions"] == 10_500.0


BOAMPS = {
    "type": "object",
    "required": ["task", "measures", "infrastructure"],
    "properties": {
        "header": {"type": "object", "required": ["reportDatetime"]},
        "task": {
            "type": "object",
            "required": ["taskStage", "taskFamily", "algorithms", "dataset"],
            "properties": {
                "algorithms": {"type": "array", "minItems": 1},
                "dataset": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "required": ["dataUsage", "dataType"],
                        "properties": {
                            "dataUsage": {"enum": ["input", "output"]},
                            "dataType": {"enum": list(boamps.DATA_TYPES)},
                        },
                    },
                },
                "measuredAccuracy": {"type": "number", "minimum": 0, "maximum": 1},
            },
        },
        "measures": {
            "type": "array",
            "minItems": 1,
            "items": {
                "required": ["measurementMethod", "powerConsumption"],
                "properties": {"powerConsumption": {"type": "number"}},
            },
        },
        "infrastructure": {
            "required": ["infraType", "components"],
            "properties": {
                "infraType": {"enum": ["publicCloud", "privateCloud", "onPremise", "other"]},
                "components": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "required": ["componentType", "nbComponent"],
                        "properties": {"nbComponent": {"type": "integer"}},
                    },
                },
            },
        },
        "environment": {"type": "object", "required": ["country"]},
        "quality": {"enum": ["high", "medium", "low"]},
    },
}
"""What BoAmps demands (Boavizta/BoAmps, model/*.json): its required keys, types and lists."""


def test_boamps_has_what_it_demands() -> None:
    about = About(metric="accuracy", value=0.92, params=110e6, stage="training", data="text")
    report = json.loads(renderer("boamps")(made(about=about)))
    jsonschema.validate(report, BOAMPS)
    assert report["measures"][0]["powerConsumption"] == 24
    # The CPU of the example is shared out, not measured run by run.
    assert report["measures"][0]["cpuTrackingMode"] == "counter, apportioned"
    assert report["task"]["measuredAccuracy"] == 0.92
    assert report["task"]["algorithms"][0]["parametersNumber"] == 0.11
    assert report["environment"]["powerSourceCarbonIntensity"] == pytest.approx(350)
    assert report["quality"] == "high"
    for _, each in every_name():
        jsonschema.validate(json.loads(renderer("boamps")(each)), BOAMPS)


@pytest.mark.nightly
def test_boamps_is_read_by_codecarbon(tmp_path: Path) -> None:
    """Its classes know every field of the specification (which is in no package as a schema)."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    subprocess.run([*pip, "codecarbon==3.3.2"], cwd=tmp_path, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        source = archive.read("codecarbon/output_methods/boamps/models.py")
    module = sys.modules["boamps"] = types.ModuleType("boamps")
    try:
        exec(source, module.__dict__)
        for _, each in every_name():
            report = json.loads(renderer("boamps")(each))
            assert module.BoAmpsReport.from_dict(report).to_dict() == report
    finally:
        del sys.modules["boamps"]


def test_csv_has_a_line_for_each_run_and_no_formula() -> None:
    rows = list(csv.DictReader(io.StringIO(renderer("csv")(made()))))
    assert [row["id"] for row in rows] == ["101", "102", "103", "104"]
    assert sum(int(row["energy_uj"]) for row in rows) == 24 * 3_600_000_000_000
    for name, each in every_name():
        found = list(csv.reader(io.StringIO(renderer("csv")(each))))
        assert len(found) == 5, name
        assert {len(row) for row in found} == {len(found[0])}
        assert not [cell for row in found for cell in row if cell[:1] in set("=+-@\t\r")]
    assert runs_csv.cell("=1") == "'=1"


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_loads_nothing_and_runs_nothing() -> None:
    usual = Page(renderer("html")(made()))
    tags = {tag for tag, _ in usual.elements}
    attributes = {name for _, found in usual.elements for name in found}
    for name, each in every_name():
        text = renderer("html")(each)
        page = Page(text)
        assert {tag for tag, _ in page.elements} <= tags, name
        assert {key for _, found in page.elements for key in found} <= attributes, name
        assert "url(" not in text
    assert not tags & {"script", "img", "link", "iframe", "object", "a", "form"}
    assert not attributes & {"src", "href", "onclick"}
    policy = dict(usual.elements)["meta"]
    assert policy
    assert "default-src 'none'" in renderer("html")(made())
    assert (
        html.escape("<b> & 'x' \"CO2e\"")
        == "&lt;b&gt; &amp; &#x27;x&#x27; &quot;CO<sub>2</sub>e&quot;"
    )


_COMMAND = re.compile(r"\\(?:[A-Za-z]+|[^A-Za-z])")


def test_latex_has_no_command_but_its_own() -> None:
    own = set(_COMMAND.findall(latex.render(made())))
    own |= {rf"\{c}" for c in "{}$&#%_'^~\"`=.rvcuH"}
    own |= {
        r"\textbackslash", r"\textasciicircum", r"\textasciitilde", r"\textless", r"\textgreater",
        r"\textbar", r"\char", r"\ldots", r"\ss", r"\ae", r"\AE", r"\o", r"\O", r"\l", r"\L",
        r"\oe", r"\i", r"\quad",
    }  # fmt: skip
    for name, each in every_name():
        text = latex.render(each)
        assert text.isascii()
        body = "\n".join(line for line in text.splitlines() if not line.startswith("% "))
        assert set(_COMMAND.findall(body)) <= own, name
        assert not re.search(r"(?<!\\)%", body), name
        for opened, closed in (("{", "}"),):
            plain = re.sub(r"\\[{}]", "", body)
            assert plain.count(opened) == plain.count(closed), name


def test_markdown_has_no_markup_but_its_own() -> None:
    usual = renderer("markdown")(made())
    for name, each in every_name():
        text = renderer("markdown")(each)
        assert len(text.splitlines()) <= len(usual.splitlines()) + 2, name
        assert not re.search(r"(?<!\\)\[[^\]]*(?<!\\)\]\(", text), name
        assert not re.search(r"<(?!!-- -->)", text), name
        assert not re.search(r"(?<!\\)`", text), name
        assert "https://" not in text
        columns = {line.count(" | ") for line in text.splitlines() if line.startswith("| run |")}
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert columns and all(re.sub(r"\\\|", "", row).count("|") in (4, 9) for row in rows), name
    assert markdown.escape("a_b|c*") == r"a\_b\|c\*"


def test_text_moves_no_cursor_and_turns_no_text_round() -> None:
    for name, each in every_name():
        text = renderer("text")(each)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text), name


def test_json_is_ascii() -> None:
    for _, each in every_name():
        assert renderer("json")(each).isascii()


def test_figures_are_the_same_in_every_format() -> None:
    each = made()
    facility = {
        "text": "30.00 kWh", "markdown": "30.00 kWh", "latex": "30.00 kWh", "html": "30.00 kWh",
        "hf": "30.00 kWh", "json": '"value": 30.0',
    }  # fmt: skip
    for name, said in facility.items():
        assert said in renderer(name)(each), name


def test_a_report_of_nothing_is_one_too() -> None:
    empty = msgspec.structs.replace(account(), postings=(), models={}, source="ledger of n1")
    found = statement.make(empty, About(), RoleChoice(), statement.StatementContext(MADE_S))
    for name in sorted(set(FORMATS) - {"hf"}):
        assert renderer(name)(found)
    parsed: Any = json.loads(renderer("json")(found))
    assert parsed["counts"]["total"] == 0
    assert parsed["quality"]["coverage"]["unknown"] == "no GPU was held"


def test_what_is_modelled_is_not_called_measured() -> None:
    whole = msgspec.structs.replace(
        account(),
        postings=tuple(
            row._replace(method=Method.MODELLED) if row.method is Method.APPORTIONED else row
            for row in account().postings
        ),
    )
    text = " ".join(
        sentences(statement.make(whole, About(), RoleChoice(), statement.StatementContext(MADE_S)))
    )
    assert "83.3 % by the devices' own energy counters." in text
    assert "16.7 % of the energy was not measured, but comes from a model." in text
