"""Write the blocks of tools that evaluate models or measure servers. [front]"""

from __future__ import annotations

import shlex
from typing import Final

from mlx_worker.config import KEY_VARIABLE
from mlx_worker.operate.client_blocks.client import NO_KEY, SHELL_KEY, Client, Target, exports

_IN_SHELL: Final = "in the shell"

_FOLDER: Final = (
    "# MODEL_FOLDER is the model's folder: the client counts tokens with its tokenizer.\n"
)


def _inspect_ai(target: Target) -> str:
    """Call the provider as the key's variable begins: inspect-ai makes variables of its name."""
    name = f"openai-api/mlx-worker/{target.model}"
    return (
        exports(MLX_WORKER_BASE_URL=target.api)
        + f"export {KEY_VARIABLE}={SHELL_KEY}\n"
        + f"inspect eval --model {shlex.quote(name)}\n"
    )


def _lm_eval(target: Target) -> str:
    """Ask for completions: only they have the log-likelihoods that most tasks are scored by."""
    arguments = (
        f"model={target.model},base_url={target.api}/completions,tokenizer=$MODEL_FOLDER"
        + ("" if target.context is None else f",max_length={target.context}")
    )
    return (
        _FOLDER
        + exports(OPENAI_API_KEY=SHELL_KEY)
        + f'lm_eval --model local-completions --model_args "{arguments}"\n'
    )


def _guidellm(target: Target) -> str:
    key = f"${{{KEY_VARIABLE}:-{NO_KEY}}}"
    backend = f"kind=openai_http,target={target.url},model={target.model},api_key={key}"
    return (
        _FOLDER
        + f'guidellm run --backend "{backend}"'
        + ' --tokenizer "kind=huggingface_auto,model=$MODEL_FOLDER"\n'
    )


EVALUATION: Final = (
    Client("inspect-ai", "Inspect", "sh", _IN_SHELL, _inspect_ai),
    Client("lm-eval", "lm-evaluation-harness", "sh", _IN_SHELL, _lm_eval),
    Client("guidellm", "GuideLLM", "sh", _IN_SHELL, _guidellm),
)
