"""Findings about this machine, independent of the models of the node.

[front]
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from typing import TYPE_CHECKING

import psutil

from mlx_worker.cli.doctor.finding import Finding, bad, ok, warn
from mlx_worker.config.sizes import in_words
from mlx_worker.service.detect import service_manager
from mlx_worker.supervisor import settings
from mlx_worker.system.file_limit import ENOUGH, few_files_allowed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlx_worker.config.schema import Config
    from mlx_worker.service.subprocess_runner import Run

# The check compiles a kernel as models do; on a CPU that needs a C++ compiler. Its own process:
# The front must not load mlx, and mlx may end a process that loads it.
ASK_MLX = """
import importlib.metadata as metadata
import mlx.core as mx
mx.eval(mx.compile(lambda x: mx.exp(x) * 2 + x)(mx.ones(8)))
versions = [f"{name} {metadata.version(name)}" for name in ("mlx", "mlx-lm")]
print(*versions, f"on {mx.default_device()}", sep=", ")
"""

READ = (
    *("MLX_WORKER_KV", "MLX_WORKER_MODELS", "XDG_CACHE_HOME", "HF_ENDPOINT", "HF_HOME"),
    *("PIP_INDEX_URL", "HTTPS_PROXY", "NO_PROXY"),
)
"""Variables that change what a node or a command does."""

SECRET = ("MLX_WORKER_API_KEY", "MLX_WORKER_API_KEYS", "HF_TOKEN")
"""Variables whose values are secret: the finding only says that they are set."""


def python() -> Finding:
    """Check the interpreter and its system."""
    where = f"{platform.python_version()} at {sys.executable}, {platform.platform()}"
    if sys.platform == "darwin" and platform.machine() != "arm64":
        return bad("python", where, "mlx needs Apple silicon, and a Python that is not for Intel")
    return ok("python", where)


def mlx(run: Run) -> Finding:
    """Check mlx, its device, and whether mlx can compile a kernel."""
    ran = run([sys.executable, "-P", "-c", ASK_MLX])
    last = ran.output.splitlines()[-1] if ran.output else f"ended with {ran.status}"
    if ran.status != 0:
        advice = "reinstall mlx; on Linux without a GPU its kernels need a C++ compiler (g++)"
        return bad("mlx", last, advice)
    if sys.platform == "darwin" and "gpu" not in last:
        return warn("mlx", last, "Metal is not used: is this a virtual machine?")
    return ok("mlx", last)


def open_files() -> Finding:
    """Check the number of files, and so of connections, that a process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if (most := few_files_allowed()) is not None:
        advice = (
            f"raise the hard limit to {ENOUGH} or more: limits.conf, LimitNOFILE of a unit,"
            " --ulimit nofile=65536:65536 of a container"
        )
        return warn("open files", f"{soft}, at most {most} (the hard limit)", advice)
    if soft != resource.RLIM_INFINITY and soft < ENOUGH:
        advice = f"`ulimit -n {ENOUGH}` before `serve`; the service sets its own limit"
        return warn("open files", f"{soft}, and each connection is one", advice)
    return ok("open files", "no limit" if soft == resource.RLIM_INFINITY else str(soft))


def wired_limit(run: Run, config: Config | None) -> list[Finding]:
    """Compare the memory that macOS allows the GPU with the limit of models; else nothing."""
    if sys.platform != "darwin":
        return []
    ran = run(["sysctl", "-n", "iogpu.wired_limit_mb"])
    if ran.status != 0 or not ran.output.isdigit():
        return [warn("wired limit", ran.output, "macOS 15 or later has iogpu.wired_limit_mb")]
    limit = int(ran.output) << 20
    if limit == 0:
        return [ok("wired limit", "the system's own, two thirds to three quarters of the memory")]
    wanted = settings.memory_limit(config.supervisor) if config else 0
    said = f"{in_words(limit)}, models may take {in_words(wanted)}"
    if wanted > limit:
        advice = (
            f"lower supervisor.memory_limit, or sudo sysctl iogpu.wired_limit_mb={wanted >> 20}"
        )
        return [warn("wired limit", said, advice)]
    return [ok("wired limit", said)]


def services(run: Run) -> Iterator[Finding]:
    """Report the state of the user's service and of the machine's."""
    for daemon, subject in ((False, "service"), (True, "service (machine's)")):
        here = service_manager(run, daemon=daemon)
        state = here.state()
        if not state.installed:
            yield ok(subject, f"not installed ({here.file})")
        elif state.running:
            yield ok(subject, state.said)
        else:
            verb = "mlx-worker service start" + (" --daemon" if daemon else "")
            yield warn(subject, f"installed, {state.said}", f"`{verb}`")


def environment() -> Finding:
    """Report the environment variables that change what a node does; a service has its own."""
    plain = [f"{name}={os.environ[name]}" for name in READ if name in os.environ]
    secret = [f"{name} is set" for name in SECRET if name in os.environ]
    return ok("environment", ", ".join([*plain, *secret]) or "no variable of the node is set")


def memory_now() -> str:
    """Return the memory of the machine and the free part of it, as text."""
    memory = psutil.virtual_memory()
    return f"{in_words(memory.total)}, {in_words(memory.available)} free"
