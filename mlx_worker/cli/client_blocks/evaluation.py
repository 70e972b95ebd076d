"""Write the blocks of tools that evaluate models or measure servers.

[front]
"""

from __future__ import annotations

import shlex
from typing import Final

from mlx_worker.cli.client_blocks.client import SHELL_KEY, ClientBlock, ClientTarget, exports
from mlx_worker.config.schema import KEY_VARIABLE

_IN_SHELL: Final = "in the shell"

_FOLDER: Final = (
    "# MODEL_FOLDER is the model's folder: the client counts tokens with its tokenizer.\n"
)


def _inspect_ai(target: ClientTarget) -> str:
    """Name the provider as the key's variable begins: inspect-ai adds `_API_KEY` to the name."""
    name = f"openai-api/mlx-worker/{target.model}"
    return (
        exports(MLX_WORKER_BASE_URL=target.api)
        + f"export {KEY_VARIABLE}={SHELL_KEY}\n"
        + f"inspect eval --model {shlex.quote(name)}\n"
    )


def _lm_eval(target: ClientTarget) -> str:
    """Ask for completions: only they have the log-likelihoods that most tasks are scored by."""
    limit = "" if target.context is None else f"max_length={target.context},"
    arguments = f"model={target.model},base_url={target.api}/completions,{limit}tokenizer="
    return (
        _FOLDER
        + exports(OPENAI_API_KEY=SHELL_KEY)
        + "lm_eval --model local-completions"
        + f' --model_args {shlex.quote(arguments)}"$MODEL_FOLDER"\n'
    )


def _guidellm(target: ClientTarget) -> str:
    backend = f"kind=openai_http,target={target.url},model={target.model},api_key="
    return (
        _FOLDER
        + f"guidellm run --backend {shlex.quote(backend)}{SHELL_KEY}"
        + ' --tokenizer kind=huggingface_auto,model="$MODEL_FOLDER"\n'
    )


EVALUATION: Final = (
    ClientBlock(
        "inspect-ai",
        "Inspect",
        "sh",
        _IN_SHELL,
        _inspect_ai,
        "Append the file of the task to the last line.",
    ),
    ClientBlock(
        "lm-eval",
        "lm-evaluation-harness",
        "sh",
        _IN_SHELL,
        _lm_eval,
        "Append `--tasks` and further options of the harness.",
    ),
    ClientBlock(
        "guidellm",
        "GuideLLM",
        "sh",
        _IN_SHELL,
        _guidellm,
        "Append `--data`, `--profile` and `--constraint`.",
    ),
)
