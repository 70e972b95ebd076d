"""The page of dialects names every field that the bodies are typed with, and says what is done."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from mlx_worker.api.dialects.chat.request import ChatCompletionRequest
from mlx_worker.api.dialects.completions.request import CompletionRequest
from mlx_worker.api.dialects.fields import CommonFields
from mlx_worker.api.dialects.messages.request import MessageRequest
from mlx_worker.api.dialects.native.tokenize import DetokenizeRequest, TokenizeRequest
from mlx_worker.api.dialects.responses.request import ResponseRequest
from mlx_worker.api.dialects.session_fields import SessionFields

TEXT = (Path(__file__).parents[2] / "docs" / "reference" / "dialects.md").read_text()
SECTIONS: dict[str, tuple[type[msgspec.Struct], ...]] = {
    "POST /v1/chat/completions": (ChatCompletionRequest, SessionFields),
    "POST /v1/completions": (CompletionRequest, SessionFields),
    "POST /v1/responses": (ResponseRequest, SessionFields),
    "POST /v1/messages": (MessageRequest, SessionFields),
    "POST /tokenize, POST /detokenize": (TokenizeRequest, DetokenizeRequest),
}


def rows(text: str) -> dict[str, str]:
    """What the tables of a text say of each field."""
    return dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text, flags=re.MULTILINE))


def section(heading: str) -> str:
    return TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]


COMMON = rows(TEXT.split("\n## ")[0])


def names(*bodies: type[msgspec.Struct]) -> set[str]:
    return {field.name for body in bodies for field in msgspec.structs.fields(body)}


@pytest.mark.parametrize("heading", SECTIONS)
def test_a_dialects_table_has_every_field_of_its_body_and_none_twice(heading: str) -> None:
    told = rows(section(heading))
    typed = names(*SECTIONS[heading])
    common = names(CommonFields) & typed
    assert not told.keys() & common
    assert typed - common <= told.keys()
    # What is not typed cannot be read: it can only be ignored.
    assert {name for name in told if name not in typed} == {
        name for name, said in told.items() if said.startswith("ignored") and name not in typed
    }


def test_the_common_table_is_the_common_fields() -> None:
    assert COMMON.keys() == names(CommonFields)


def test_every_row_says_what_is_done() -> None:
    said = [*COMMON.values(), *(row for name in SECTIONS for row in rows(section(name)).values())]
    assert len(said) > 80
    assert [item for item in said if not re.match("honoured|refused|ignored", item)] == []
