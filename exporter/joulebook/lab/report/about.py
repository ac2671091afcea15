"""What only the researcher knows, in a small TOML file beside the paper (`--about FILE`)."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

from joulebook.config.load import read
from joulebook.config.node import Section, doc
from joulebook.errors import ConfigError
from joulebook.untrusted_files import read_named_text

_MOST_BYTES = 1 << 20


class About(Section, frozen=True):
    """The words and figures of a paper that no meter measures. Every key may be left out."""

    title: Annotated[str, doc("Title of the statement.")] = ""
    best: Annotated[str, doc("Run whose result is reported.")] = ""
    sweep: Annotated[tuple[str, ...], doc("Runs it was chosen from; `*` matches anything.")] = ()
    exclude: Annotated[
        dict[str, str], doc('Runs that count, but not as part of the sweep: "105" = "wrong data"')
    ] = {}
    final: Annotated[
        tuple[str, ...],
        doc("Runs whose models were published; all others are development. `*` matches anything."),
    ] = ()
    stages: Annotated[
        dict[str, str],
        doc(
            "Stages of runs, by name of the run or experiment; they replace what the runs say: "
            '"1200_*" = "SFT"'
        ),
    ] = {}
    region: Annotated[str, doc("Where it ran; overrides report.region.")] = ""
    params: Annotated[float, doc("Number of parameters of the model.", ge=0)] | None = None
    flops: Annotated[float, doc("Floating point operations of the training.", ge=0)] | None = None
    tokens: Annotated[float, doc("Training tokens.", ge=0)] | None = None
    metric: Annotated[str, doc("Name of the metric.")] = ""
    split: Annotated[str, doc("Split of the data it was measured on.")] = ""
    value: Annotated[float, doc("Value of the metric.")] | None = None
    precision: Annotated[str, doc("Precision of the arithmetic: fp32, tf32, bf16, fp8 ...")] = ""
    utilization: Annotated[float, doc("Measured share of the peak (MFU).", gt=0, le=1)] | None = (
        None
    )
    unit: Annotated[str, doc("The functional unit of the SCI.")] = ""
    units: Annotated[float, doc("Number of functional units.", gt=0)] | None = None
    training_type: Annotated[str, doc('Of a model card: "pre-training" or "fine-tuning".')] = ""
    stage: Annotated[str, doc('Of BoAmps: "training", "finetuning", "inference" ...')] = ""
    family: Annotated[str, doc('Of BoAmps: "text classification", "image generation" ...')] = ""
    algorithm: Annotated[str, doc('Of BoAmps: "transformer", "cnn" ...')] = ""
    data: Annotated[str, doc('Of BoAmps, the kind of data: "text", "image", "tabular" ...')] = ""
    country: Annotated[str, doc("Of BoAmps: the country it ran in.")] = ""


def read_about(path: Path | None) -> About:
    """The file, or nothing if there is none. Raises `ConfigError` that names file and key."""
    if path is None:
        return About()
    text = read_named_text(path, _MOST_BYTES)
    try:
        return read(About, tomllib.loads(text), str(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
