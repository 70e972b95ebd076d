"""Install clients, each in a prefix of its own, and keep the prefixes between runs.

Every client is pinned exactly; what a client in Python needs besides is pinned by `pins/NAME.txt`.
Prefixes lie in the folder that MLX_WORKER_CLIENTS_CACHE names, else in tox's usual work folder. A
prefix whose stamp names other packages is made anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE: Final = Path(__file__).parent
INSTALL_DEADLINE: Final = 1200.0
"""Seconds: the largest client is 6 GB."""

COMPROMISED: Final = ("litellm!=1.82.7", "litellm!=1.82.8", "litellm!=1.107.0")
"""Releases that were reported to carry malicious code: installed for no client."""


class NotInstalled(Exception):
    """A client cannot be installed here; says why."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """A client's packages. The first one is the client, whose version the table shows."""

    npm: bool
    packages: tuple[str, ...]

    @property
    def version(self) -> str:
        """The pinned version of the client itself."""
        return self.packages[0].rpartition("@" if self.npm else "==")[2]


def _npm(*packages: str) -> Prefix:
    return Prefix(True, packages)


def _pip(*packages: str) -> Prefix:
    return Prefix(False, packages)


PREFIXES: Final[Mapping[str, Prefix]] = MappingProxyType(
    {
        "claude-code": _npm("@anthropic-ai/claude-code@2.1.332"),
        "codex": _npm("@openai/codex@0.169.0"),
        "opencode": _npm("opencode-ai@1.18.33"),
        "ai": _npm(
            "ai@7.0.173",
            "@ai-sdk/openai@4.0.118",
            "@ai-sdk/anthropic@4.0.105",
            "@ai-sdk/openai-compatible@3.0.92",
            "zod@4.6.7",
        ),
        "aider": _pip("aider-chat==0.86.2"),
        "llm": _pip("llm==0.36"),
        "litellm": _pip("litellm==1.108.7"),
        "langchain-openai": _pip("langchain-openai==1.7.4", "langchain"),
        "langchain-anthropic": _pip("langchain-anthropic==1.7.10", "langchain"),
        "pydantic-ai": _pip("pydantic-ai-slim[openai]==2.66.0"),
        "instructor": _pip("instructor==1.17.0"),
        "openai-agents": _pip("openai-agents==0.24.0"),
        "inspect-ai": _pip("inspect-ai==0.3.285", "openai"),
        "lm-eval": _pip("lm-eval[api]==0.4.13", "transformers"),
        "guidellm": _pip("guidellm==0.8.1"),
        # Routers, for tests/routers.
        "vllm-router": _pip("vllm-router==0.1.17"),
        "sglang-router": _pip("sglang-router==0.3.2"),
        "smg": _pip("smg==1.13.0"),
        "litellm-proxy": _pip("litellm[proxy]==1.108.7"),
    }
)


def cache_folder() -> Path:
    """Return where prefixes are kept."""
    named = os.environ.get("MLX_WORKER_CLIENTS_CACHE")
    return Path(named or HERE.parents[1] / ".tox").resolve() / "clients-prefixes"


def installed(name: str) -> Path:
    """Return the prefix of a client, installed now where it is not. Raises NotInstalled."""
    prefix = PREFIXES[name]
    folder = cache_folder() / name
    stamp = folder / "stamp"
    wanted = _stamp(name, prefix)
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if prefix.npm:
        _install_npm(folder, prefix.packages)
    else:
        _install_pip(folder, prefix.packages, HERE / "pins" / f"{name}.txt")
    stamp.write_text(wanted)
    return folder


def _stamp(name: str, prefix: Prefix) -> str:
    pins = HERE / "pins" / f"{name}.txt"
    digest = hashlib.sha256(pins.read_bytes() if pins.exists() else b"").hexdigest()
    return "\n".join((*prefix.packages, sys.version.split()[0], digest))


def _install_npm(folder: Path, packages: tuple[str, ...]) -> None:
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise NotInstalled("node and npm are not installed")
    quiet = ("--no-audit", "--no-fund", "--no-package-lock", "--silent")
    _run(npm, "install", "--prefix", str(folder), *quiet, *packages)


def _install_pip(folder: Path, packages: tuple[str, ...], pins: Path) -> None:
    _run(sys.executable, "-m", "venv", str(folder))
    refused = folder / "refused.txt"
    refused.write_text("\n".join(COMPROMISED) + "\n")
    constraints = [option for file in (refused, pins) if file.exists() for option in ("-c", file)]
    python = folder / "bin" / "python"
    quiet = ("--quiet", "--disable-pip-version-check")
    _run(str(python), "-m", "pip", "install", *quiet, *map(str, constraints), *packages)


def _run(*command: str) -> None:
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=INSTALL_DEADLINE
        )
    except subprocess.CalledProcessError as error:
        raise NotInstalled(f"{' '.join(command)}: {error.stderr.strip()[-500:]}") from error
    except subprocess.TimeoutExpired as error:
        raise NotInstalled(f"{' '.join(command)}: took too long") from error
