"""Write the blocks of libraries: code that makes their object for the model.

[front]
"""

from __future__ import annotations

from typing import Final

from mlx_worker.cli.client_blocks.client import (
    NO_KEY,
    PYTHON_KEY,
    ClientBlock,
    ClientTarget,
    quoted,
)
from mlx_worker.config.schema import KEY_VARIABLE

_IN_PYTHON: Final = "in Python"


def _litellm(target: ClientTarget) -> str:
    limits = ""
    if target.context is not None:
        limits = f"""\
    model_info:
      max_input_tokens: {target.context}
      max_output_tokens: {target.answer}
"""
    return f"""\
model_list:
  - model_name: {quoted(target.model)}
    litellm_params:
      model: {quoted(f"openai/{target.model}")}
      api_base: {quoted(target.api)}
      api_key: os.environ/{KEY_VARIABLE}
{limits}"""


def _langchain_openai(target: ClientTarget) -> str:
    return f"""\
import os

from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    model={quoted(target.model)},
    base_url={quoted(target.api)},
    api_key={PYTHON_KEY},
{_argument("max_completion_tokens", target.answer)})
"""


def _langchain_anthropic(target: ClientTarget) -> str:
    return f"""\
import os

from langchain_anthropic import ChatAnthropic

model = ChatAnthropic(
    model={quoted(target.model)},
    base_url={quoted(target.url)},
    api_key={PYTHON_KEY},
{_argument("max_tokens", target.answer)})
"""


def _pydantic_ai(target: ClientTarget) -> str:
    return f"""\
import os

from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

model = OpenAIChatModel(
    {quoted(target.model)},
    provider=OpenAIProvider(
        base_url={quoted(target.api)},
        api_key={PYTHON_KEY},
    ),
)
"""


def _instructor(target: ClientTarget) -> str:
    return f"""\
import os

import instructor
from openai import OpenAI

MODEL = {quoted(target.model)}
openai = OpenAI(
    base_url={quoted(target.api)},
    api_key={PYTHON_KEY},
)
client = instructor.from_openai(openai, mode=instructor.Mode.JSON_SCHEMA)
"""


def _openai_agents(target: ClientTarget) -> str:
    return f"""\
import os

from agents import OpenAIResponsesModel, set_tracing_disabled
from openai import AsyncOpenAI

set_tracing_disabled(True)
model = OpenAIResponsesModel(
    {quoted(target.model)},
    AsyncOpenAI(
        base_url={quoted(target.api)},
        api_key={PYTHON_KEY},
    ),
)
"""


def _ai_sdk(target: ClientTarget) -> str:
    return f"""\
import {{ createAnthropic }} from "@ai-sdk/anthropic";
import {{ createOpenAI }} from "@ai-sdk/openai";
import {{ createOpenAICompatible }} from "@ai-sdk/openai-compatible";

const baseURL = {quoted(target.api)};
const apiKey = process.env.{KEY_VARIABLE} ?? "{NO_KEY}";

// Any one of these three.
export const responses = createOpenAI({{ baseURL, apiKey }})({quoted(target.model)});
export const messages = createAnthropic({{ baseURL, apiKey }})({quoted(target.model)});
export const chat = createOpenAICompatible({{
  name: "mlx-worker",
  baseURL,
  apiKey,
  supportsStructuredOutputs: true,
}})({quoted(target.model)});
"""


def _argument(name: str, value: int | None) -> str:
    return "" if value is None else f"    {name}={value},\n"


LIBRARIES: Final = (
    ClientBlock(
        "litellm",
        "LiteLLM",
        "yaml",
        "in the proxy's config.yaml",
        _litellm,
        """\
`litellm.Router` takes the same `model_list`. Releases 1.82.7, 1.82.8 and 1.107.0 are reported to be
compromised: install another one by its exact version.""",
    ),
    ClientBlock("langchain-openai", "LangChain (OpenAI)", "python", _IN_PYTHON, _langchain_openai),
    ClientBlock(
        "langchain-anthropic", "LangChain (Anthropic)", "python", _IN_PYTHON, _langchain_anthropic
    ),
    ClientBlock("pydantic-ai", "Pydantic AI", "python", _IN_PYTHON, _pydantic_ai),
    ClientBlock("instructor", "Instructor", "python", _IN_PYTHON, _instructor),
    ClientBlock("openai-agents", "OpenAI Agents SDK", "python", _IN_PYTHON, _openai_agents),
    ClientBlock(
        "ai",
        "AI SDK (npm's ai)",
        "javascript",
        "in JavaScript",
        _ai_sdk,
        "The provider of Messages asks for 4,096 tokens at most unless `maxOutputTokens` is set.",
    ),
)
