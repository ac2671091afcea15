"""JSON: the statement itself, by the schema in `docs/schema/report.schema.json`."""

from __future__ import annotations

import json

import msgspec

from joulebook.lab.report.model import Statement

SCHEMA_ID = "urn:joulebook:schema:report:1"


def render(statement: Statement) -> str:
    """Return the statement in JSON, in ASCII: control and direction characters are escaped."""
    flat = json.dumps(msgspec.to_builtins(statement), allow_nan=False)
    # What `indent` of json would write; that is Python, and takes longer than a statement.
    return msgspec.json.format(flat, indent=2) + "\n"


def schema() -> str:
    """Return the schema (JSON Schema 2020-12), generated from the classes."""
    found = msgspec.json.schema(Statement)
    named = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "Joulebook report",
        **found,
    }
    return json.dumps(named, indent=2) + "\n"
