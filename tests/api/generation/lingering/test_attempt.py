"""Which bodies name a session."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlx_worker.api.generation.lingering.attempt import SMALL_BODY, names_session


@pytest.mark.parametrize(
    ("body", "is_named"),
    [
        ({"prompt_cache_key": "k"}, True),
        ({"user": "ann"}, True),
        ({"metadata": {"user_id": "ann"}}, True),
        ({"user": None, "metadata": {"user_id": ""}}, False),
        ({"messages": [{"role": "user", "content": '"prompt_cache_key": "k"'}]}, False),
        ({"tools": [{"properties": {"user_id": {}, "user": {}}}]}, False),
        ({"user": 3}, False),
        ({"prompt_cache_key": "k", "prompt": "x" * SMALL_BODY}, True),
        ({"prompt": '"user":' * SMALL_BODY}, False),
    ],
)
def test_names_session_reads_the_fields_of_the_body_alone(
    body: dict[str, Any], is_named: bool
) -> None:
    assert names_session(json.dumps(body).encode()) is is_named


def test_names_session_of_a_body_that_is_no_json_is_false() -> None:
    assert not names_session(b'{"user": "ann"')
