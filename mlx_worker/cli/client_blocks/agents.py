"""Write the blocks of coding agents and of terminal clients.

[front]
"""

from __future__ import annotations

import json
import shlex
from typing import Any, Final

from mlx_worker.cli.client_blocks.client import (
    SHELL_KEY,
    ClientBlock,
    ClientTarget,
    exports,
    quoted,
)
from mlx_worker.config.schema import KEY_VARIABLE


def _claude_code(target: ClientTarget) -> str:
    """Name the model for every role: for any other, Claude Code asks for a model of Anthropic's."""
    roles = ("ANTHROPIC_MODEL", *(f"ANTHROPIC_DEFAULT_{tier}_MODEL" for tier in _TIERS))
    return (
        exports(
            ANTHROPIC_BASE_URL=target.url,
            ANTHROPIC_AUTH_TOKEN=SHELL_KEY,
            **dict.fromkeys(roles, target.model),
            CLAUDE_CODE_MAX_CONTEXT_TOKENS=target.context,
            CLAUDE_CODE_MAX_OUTPUT_TOKENS=target.answer,
            CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1,
        )
        + "claude\n"
    )


_TIERS: Final = ("HAIKU", "SONNET", "OPUS")


def _codex(target: ClientTarget) -> str:
    limit = "" if target.context is None else f"model_context_window = {target.context}\n"
    return f"""\
model = {quoted(target.model)}
model_provider = "mlx-worker"
{limit}
[model_providers.mlx-worker]
name = "mlx-worker"
base_url = {quoted(target.api)}
env_key = "{KEY_VARIABLE}"
wire_api = "responses"
"""


def _opencode(target: ClientTarget) -> str:
    model: dict[str, Any] = {"name": target.model}
    if target.context is not None:
        model["limit"] = {"context": target.context, "output": target.answer}
    block = {
        "$schema": "https://opencode.ai/config.json",
        "model": f"mlx-worker/{target.model}",
        "small_model": f"mlx-worker/{target.model}",
        "provider": {
            "mlx-worker": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "mlx-worker",
                "options": {"baseURL": target.api, "apiKey": f"{{env:{KEY_VARIABLE}}}"},
                "models": {target.model: model},
            }
        },
    }
    return json.dumps(block, indent=2, ensure_ascii=False) + "\n"


def _aider(target: ClientTarget) -> str:
    name = f"openai/{target.model}"
    lines = exports(OPENAI_API_BASE=target.api, OPENAI_API_KEY=SHELL_KEY)
    if target.context is not None:
        limits = {
            "litellm_provider": "openai",
            "mode": "chat",
            "max_input_tokens": target.context,
            "max_output_tokens": target.answer,
        }
        metadata = shlex.quote(json.dumps({name: limits}, ensure_ascii=False))
        lines += f"echo {metadata} > .aider.model.metadata.json\n"
    return lines + f"aider --model {shlex.quote(name)}\n"


def _llm(target: ClientTarget) -> str:
    return f"""\
- model_id: {quoted(target.model)}
  model_name: {quoted(target.model)}
  api_base: {quoted(target.api)}
  api_key_name: mlx-worker
  supports_schema: true
  supports_tools: true
"""


AGENTS: Final = (
    ClientBlock(
        "claude-code",
        "Claude Code",
        "sh",
        "in the shell",
        _claude_code,
        """\
Claude Code's own prompt takes 15,000 to 20,000 tokens. A context of 32,000 tokens is the least to
work with: at 16,000 Claude Code answers, but compacts the conversation in nearly every turn. A
model whose template takes a system message only at the beginning, or wants turns to alternate,
works too. If a tool returns a picture, the model gets a sentence in its place. Web search is not
offered to the model.""",
        least_context=32_000,
    ),
    ClientBlock(
        "codex",
        "Codex",
        "toml",
        "in ~/.codex/config.toml",
        _codex,
        """\
MCP servers work as they are configured in Codex. Web search is not offered to the model; the node
says so in a warning. Codex reports that it has no metadata for the model: that is harmless.""",
    ),
    ClientBlock("opencode", "opencode", "json", "in ~/.config/opencode/opencode.json", _opencode),
    ClientBlock("aider", "aider", "sh", "in the shell, in the project's folder", _aider),
    ClientBlock(
        "llm",
        "llm",
        "yaml",
        "in extra-openai-models.yaml in the folder of `llm logs path`",
        _llm,
        f"The key: `llm keys set mlx-worker --value {SHELL_KEY}`.",
    ),
)
