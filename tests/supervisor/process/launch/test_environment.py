"""What children inherit of the front's environment, and what they do not."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from mlx_worker.supervisor.process.launch.environment import is_secret, without_secrets
from mlx_worker.supervisor.process.launch.process import NO_VARIABLES, spawn
from mlx_worker.supervisor.process.launch.stderr import StderrTail
from tests.supervisor_harness import soon

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.process

SECRET = [
    "MLX_WORKER_API_KEY",
    "MLX_WORKER_API_KEYS",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HUGGINGFACEHUB_API_TOKEN",
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GITHUB_TOKEN",
    "github_token",
    "GH_PAT",
    "DB_PASSWORD",
    "PGPASSWORD",
    "MYSQL_PWD",
    "SMTP_PASS",
    "SSH_AUTH_SOCK",
    "SESSION_COOKIE",
    "MY_SECRET",
    "SECRETS_FILE",
]
NEEDED = [
    "PATH",
    "HOME",
    "PWD",
    "OLDPWD",
    "USER",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "DYLD_INSERT_LIBRARIES",
    "MLX_MODEL_PATH",
    "MLX_MAX_OPS_PER_BUFFER",
    "MLX_WORKER_MODELS",
    "MLX_WORKER_PORT",
    "MTL_DEBUG_LAYER",
    "METAL_DEVICE_WRAPPER_TYPE",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "PYTHONPATH",
    "PYTHONDONTWRITEBYTECODE",
    "VIRTUAL_ENV",
    "HF_HOME",
    "XDG_CACHE_HOME",
    "TOKENIZERS_PARALLELISM",
    "COVERAGE_PROCESS_CONFIG",
    "KEYBOARD_LAYOUT",
    "COMPASS_MODE",
    "AUTHOR",
]


@pytest.mark.parametrize("name", SECRET)
def test_a_secret_is_kept_from_children(name: str) -> None:
    assert without_secrets({name: "none"}) == {}


@pytest.mark.parametrize("name", NEEDED)
def test_what_a_child_runs_with_is_inherited(name: str) -> None:
    assert without_secrets({name: "value"}) == {name: "value"}


@pytest.mark.parametrize(
    ("value", "secret"),
    [
        ("http://me:word@proxy:3128", True),
        ("postgres://me:word@db/name", True),
        ("https://pypi.example/simple", False),
        ("mail: me@example.com", False),
    ],
)
def test_an_url_with_a_password_is_a_secret(value: str, *, secret: bool) -> None:
    assert is_secret("ADDRESS", value) == secret


async def test_a_process_starts_without_the_fronts_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in SECRET:
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("MLX_MODEL_PATH", "/models/one")
    names = set(json.loads(await _printed_by_a_process("json.dumps(list(os.environ))")))
    assert not names & set(SECRET)
    assert {"PATH", "MLX_MODEL_PATH", "TMPDIR", "HF_HUB_OFFLINE"} <= names


@pytest.mark.parametrize("name", ["MLX_ENABLE_TF32", "MLX_ENABLE_CACHE_THRASHING_CHECK"])
@pytest.mark.parametrize(
    ("of_node", "of_model", "expected"),
    [(None, None, "0"), ("1", None, "1"), (None, "1", "1"), ("1", "0", "0")],
)
async def test_a_gpu_keeps_all_digits_and_takes_all_shapes_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    of_node: str | None,
    of_model: str | None,
    expected: str,
) -> None:
    if of_node is None:
        monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.setenv(name, of_node)
    variables = {} if of_model is None else {name: of_model}
    assert await _printed_by_a_process(f"os.environ['{name}']", variables) == expected


async def _printed_by_a_process(expression: str, of_model: Mapping[str, str] = NO_VARIABLES) -> str:
    """Return what a process that is started as a child prints of this expression."""
    program = f"import json, os, sys; print({expression}, file=sys.stderr)"
    process = await spawn([sys.executable, "-c", program], 2, of_model)
    words = StderrTail(process)
    await soon(process.wait())
    return "".join(await soon(words.complete(within=5)))
