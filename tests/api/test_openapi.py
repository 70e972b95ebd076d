"""The names of the schemas in openapi.json are public: generated clients name their types so."""

from __future__ import annotations

import json
from pathlib import Path

from mlx_worker.api.openapi import document
from mlx_worker.api.routes import ROUTES

NAMES = Path(__file__).with_name("openapi_schemas.txt")
"""The names, one a line, sorted. The document takes them from the names of Python classes."""


def test_schema_names_are_those_of_the_list() -> None:
    names = json.loads(document(ROUTES))["components"]["schemas"]
    assert sorted(names) == NAMES.read_text().splitlines(), (
        "a class that is renamed renames a public schema: that is a decision with a line in the"
        f" changelog; a new schema has a line in {NAMES.name}"
    )
