"""The forms of others, each against its official schema where a package carries one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import jsonschema
import msgspec
import pytest
from referencing import Registry, Resource
from spdx_python_model.bindings import v3_0_1 as spdx
from tests.unit.lab.report.test_formats import every_name, made

from joulebook.lab.report.about import About
from joulebook.lab.report.formats import renderer
from joulebook.lab.report.formats.cyclonedx import activity
from joulebook.lab.report.model import Figure, Statement
from joulebook.lab.report.short import abstract, short
from joulebook.lab.report.tables import by_stage, key_figures

ABOUT = About(params=110e6, tokens=3e9, flops=1.98e18, metric="accuracy", value=0.92)


def statements() -> Iterator[Statement]:
    yield made()
    yield made(about=ABOUT)
    for _, each in every_name():
        yield each


def cyclonedx_validator(version: str) -> Any:
    folder = resources.files("cyclonedx.schema") / "_res"
    names = ("spdx", "jsf-0.82", "cryptography-defs")
    files = [folder / f"{name}.SNAPSHOT.schema.json" for name in names]
    known: Registry[Any] = Registry().with_resources(
        (f"http://cyclonedx.org/schema/{file.name}", Resource.from_contents(_json(file)))
        for file in files
    )
    schema = _json(folder / f"bom-{version}.SNAPSHOT.schema.json")
    return jsonschema.Draft7Validator(schema, registry=known)


def _json(file: Traversable) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def consumptions(bom: Any) -> Any:
    (model,) = bom["components"]
    considered = model["modelCard"]["considerations"]["environmentalConsiderations"]
    return considered["energyConsumptions"]


@pytest.mark.parametrize("version", ["1.6", "1.7"])
def test_cyclonedx_is_as_its_schema_says(version: str) -> None:
    validator = cyclonedx_validator(version)
    for each in statements():
        found = json.loads(renderer("cyclonedx")(each))
        found |= {"specVersion": version}
        found["$schema"] = f"http://cyclonedx.org/schema/bom-{version}.schema.json"
        validator.validate(found)
    consumptions(found)[0]["activity"] = "sleeping"
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(found)


def test_cyclonedx_has_the_energy_of_the_facility() -> None:
    (consumed,) = consumptions(json.loads(renderer("cyclonedx")(made())))
    assert consumed["activityEnergyCost"] == {"value": 30, "unit": "kWh"}
    assert consumed["co2CostEquivalent"] == {"value": 0.0105, "unit": "tCO2eq"}
    said = {each["name"]: each["value"] for each in consumed["properties"]}
    assert (said["joulebook:boundary"], said["joulebook:runs"]) == ("facility", "4")


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("SFT", "fine-tuning"),
        ("pre-training", "training"),
        ("Evaluation", "validation"),
        ("development", "other"),
        ("\u8a13\u7df4", "other"),
    ],
)
def test_the_activity_of_a_stage(stage: str, expected: str) -> None:
    assert activity(stage) == expected


def test_spdx_is_taken_by_its_own_model() -> None:
    for each in statements():
        text = renderer("spdx")(each)
        objects = spdx.SHACLObjectSet()
        spdx.JSONLDDeserializer().deserialize_data(json.loads(text), objects)
        (model,) = objects.foreach_type(spdx.ai_AIPackage)
        energy = model.ai_energyConsumption
        assert isinstance(energy, spdx.ai_EnergyConsumption)
        (described,) = energy.ai_trainingEnergyConsumption
        assert isinstance(described, spdx.ai_EnergyConsumptionDescription)
        assert float(described.ai_energyQuantity or 0) == pytest.approx(30)
        assert str(described.ai_energyUnit).endswith("/kilowattHour")
        (document,) = objects.foreach_type(spdx.SpdxDocument)
        assert document.rootElement == [model]


def test_sci_counts_each_unit_that_is_known() -> None:
    found = json.loads(renderer("sci")(made(about=ABOUT)))
    scores = {each["per"]: each["g_co2e"] for each in found["scores"]}
    # 10.5 kg, and 0.54 to 1.01 kg embodied.
    assert scores["run"]["low"] == pytest.approx(11_040 / 4, rel=1e-3)
    assert scores["training token"]["low"] == pytest.approx(11_040 / 3e9, rel=1e-3)
    assert scores["parameter"]["low"] == pytest.approx(11_040 / 110e6, rel=1e-3)
    assert scores["FLOP"]["low"] == pytest.approx(11_040 / 1.98e18, rel=1e-3)
    unknown = {e["per"]: e["g_co2e"] for e in json.loads(renderer("sci")(made()))["scores"]}
    assert unknown["training token"] is None


def cells(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for label, value in re.findall(r"(?m)^\| ([^|]+) \| ([^|]*) \|$", text):
        found.setdefault(label, []).append(value)
    return found


def test_an_unknown_coverage_is_a_sentence_in_the_form_of_the_eu() -> None:
    statement = made(about=ABOUT)
    unknown = msgspec.structs.replace(
        statement.quality, coverage=Figure(None, "%", unknown="not known from Prometheus: why")
    )
    text = renderer("eu-gpai")(msgspec.structs.replace(statement, quality=unknown))
    assert "Readings cover an unknown share of the time" in text


def test_the_form_of_the_eu() -> None:
    found = cells(renderer("eu-gpai")(made(about=ABOUT)))
    assert found["Amount of energy used for training (MWh)"] == ["0.030"]
    assert found["Training time, hardware days"] == ["1.7 NVIDIA H100 80GB HBM3 days"]
    assert found["Amount of computation used for training (FLOPs)"] == ["2.0e+18"]
    stated, measured, inference = found["Measurement methodology"]
    assert stated == "stated by the developer"
    assert 60 <= len(measured.split()) <= 130
    assert "machine room, 2025" in measured
    assert inference == "N/A"
    assumed = cells(renderer("eu-gpai")(made()))
    assert assumed["Amount of computation used for training (FLOPs)"] == ["N/A"]


def test_no_name_breaks_the_form_of_the_eu() -> None:
    usual = len(renderer("eu-gpai")(made()).splitlines())
    for name, each in every_name():
        text = renderer("eu-gpai")(each)
        assert len(text.splitlines()) == usual, name
        assert not re.search(r"(?<!\\)`|<(?!!-- -->)", text), name


@pytest.mark.parametrize(
    ("host", "percent", "said"),
    [
        (None, 0.0, "hosts not measured"),
        (3.0, 25.0, "hosts measured for 25.0 % of the GPU-hours"),
        (3.0, 100.0, ""),
    ],
)
def test_no_energy_is_the_nodes_whose_hosts_were_not_measured(
    host: float | None, percent: float, said: str
) -> None:
    whole = made(about=ABOUT)
    replace = msgspec.structs.replace
    each = replace(
        whole,
        energy=replace(whole.energy, host=Figure(host, "kWh")),
        quality=replace(whole.quality, host=Figure(percent, "%")),
    )
    rows = [row[0] for row in key_figures(each).rows]
    suffix = f" ({said})" if said else ""
    assert (f"Energy of nodes{suffix}" in rows) is (host is not None)
    assert f"Energy of the facility{suffix}" in rows
    page = renderer("html")(each).replace("&nbsp;", " ")
    assert by_stage(each).notes[0].startswith(f"Energy is that of the facility{suffix};")
    assert (f"at the facility, {said}" in page) is bool(said)
    texts = {form: renderer(form)(each) for form in ("hf", "cyclonedx", "spdx", "sci")}
    for form, text in {**texts, "abstract": abstract(each)}.items():
        assert ("hosts measured for" in text or "hosts not measured" in text) is bool(said), form
        assert said in " ".join(text.split()), form


@pytest.mark.parametrize(("coverage", "said"), [(50.0, "50.0 %"), (99.9, "99.9 %"), (100.0, "")])
def test_an_abstract_says_what_was_not_measured(coverage: float, said: str) -> None:
    whole = made(about=ABOUT)
    replace = msgspec.structs.replace
    quality = replace(whole.quality, coverage=Figure(coverage, "%"))
    text = abstract(replace(whole, quality=quality))
    assert (f"GPU-hours, measured for {said} of that time" in text) is bool(said)
    without = replace(whole.energy, facility=Figure(None, "kWh"), host=Figure(None, "kWh"))
    text = abstract(replace(whole, energy=without))
    assert "of electricity (without the facility's overhead, hosts not measured) in" in text


def test_one_run_on_one_gpu_is_not_many() -> None:
    whole = made()
    replace = msgspec.structs.replace
    (gpus,) = whole.inventory.gpus
    each = replace(
        whole,
        counts=replace(whole.counts, total=1),
        inventory=replace(whole.inventory, gpus=[replace(gpus, count=1, model="NVIDIA H100")]),
    )
    assert "comprised 1 run (40.00 GPU-hours) on 1 NVIDIA H100 GPU on 1 January" in short(each)[0]
    for form in ("hf", "boamps"):
        assert re.search(r"\b1 run\b", renderer(form)(each)), form
