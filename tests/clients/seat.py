"""Run one client as its user would: its block, a home of its own, and no way out but loopback."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.cli.client_blocks import CLIENTS
from mlx_worker.config.schema import KEY_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlx_worker.cli.client_blocks.client import ClientTarget

DEADLINE: Final = 100.0
"""Seconds that one run of a client may take; most take one."""

KEY: Final = "a-key-of-the-client-tests"

NOWHERE: Final = "http://127.0.0.1:9"
"""An address without a proxy: what would leave the machine fails at once."""

QUIET: Final = {
    "NO_COLOR": "1",
    "DO_NOT_TRACK": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_AUTOUPDATER": "1",
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "AI_SDK_TELEMETRY_DISABLED": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}
"""What keeps clients from updating themselves and from sending telemetry."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a client wrote and how it ended."""

    code: int
    out: str
    err: str

    @property
    def whole(self) -> str:
        """Everything, for the message of a failed assertion."""
        return f"exit status {self.code}\n{self.out[-4000:]}\n{self.err[-4000:]}"

    @property
    def last_json(self) -> Any:
        """The JSON on the last line that is not empty."""
        lines = self.out.strip().splitlines()
        assert lines, self.whole
        return json.loads(lines[-1])

    @property
    def events(self) -> list[Any]:
        """The JSON of every line that is an object."""
        return [json.loads(line) for line in self.out.splitlines() if line.startswith("{")]


@dataclass(frozen=True, slots=True)
class Seat:
    """A client in its prefix, with a home and a folder to work in, before a model of a node."""

    name: str
    prefix: Path
    home: Path
    target: ClientTarget
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        """The folder that the client works in."""
        folder = self.home / "work"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def block(self) -> str:
        """The client's block for this node, as `mlx-worker client-config` prints it."""
        return CLIENTS[self.name].write(self.target)

    def place(self, path: str, text: str | None = None) -> Path:
        """Write a file below the home, the block where no text is given."""
        file = self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.block if text is None else text)
        return file

    def shell(self, *more: str, stdin: str = "", deadline: float = DEADLINE) -> Ran:
        """Run the block as a shell reads it, with more arguments for its last command."""
        line = f"{self.block.rstrip()} {shlex.join(more)}"
        return self.run("bash", "-euc", line, stdin=stdin, deadline=deadline)

    def run(self, *command: str, stdin: str = "", deadline: float = DEADLINE) -> Ran:
        """Run a command; the whole group of its processes has ended on return."""
        process = subprocess.Popen(
            command,
            cwd=self.work,
            env=self._environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(stdin, timeout=deadline)
        except subprocess.TimeoutExpired:
            _end_group(process.pid)
            out, err = process.communicate()
            raise AssertionError(
                f"{command} took {deadline} s:\n{out[-4000:]}\n{err[-4000:]}"
            ) from None
        finally:
            _end_group(process.pid)
        return Ran(process.returncode, out, err)

    def trial(self, script: str, *arguments: str) -> dict[str, Any]:
        """Run a script of `trials` in the client's prefix; return the JSON object it prints."""
        here = Path(__file__).parent / "trials"
        for file in ("trial.py", script):
            shutil.copy(here / file, self.work)
        if script.endswith(".mjs"):
            modules = self.work / "node_modules"
            if not modules.exists():
                modules.symlink_to(self.prefix / "node_modules")
            ran = self.run("node", script, *arguments)
        else:
            ran = self.run(str(self.prefix / "bin" / "python"), script, *arguments)
        assert ran.code == 0, ran.whole
        outcome: dict[str, Any] = ran.last_json
        return outcome

    def _environment(self) -> dict[str, str]:
        own = [self.prefix / "bin", self.prefix / "node_modules" / ".bin"]
        return {
            "PATH": os.pathsep.join((*map(str, own), os.environ["PATH"])),
            "HOME": str(self.home),
            "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
            "LANG": "C.UTF-8",
            KEY_VARIABLE: KEY,
            **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), NOWHERE),
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            **QUIET,
            **self.extra,
        }


def _end_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
