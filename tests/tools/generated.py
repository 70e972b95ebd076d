"""Write the files of this repository that are made by code.

For contributors: `python -m tests.tools.generated` in the root of a checkout. The files are kept
beside the code because people read and copy them; a test holds them equal.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlx_worker.config import reference
from mlx_worker.config.schema import SupervisorConfig
from mlx_worker.service.definition import Definition, stop_timeout
from mlx_worker.service.launchd import Launchd
from mlx_worker.service.subprocess_runner import run
from mlx_worker.service.systemd import Systemd
from tests.tools import client_page, state_diagram
from tests.tools.pages import commands, events, exit_codes, foreign_fields, http_api, metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def _schema() -> str:
    return json.dumps(reference.json_schema(), indent=2) + "\n"


def _plist() -> str:
    home = Path("/opt/mlx-worker")
    definition = _example(home, home / "mlx-worker.toml", home / "models", user="_mlxworker")
    # A role account's own home is /var/empty; children keep compiled kernels in their home.
    environment = {**definition.environment, "HOME": str(home)}
    return Launchd(run, daemon=True).text(replace(definition, environment=environment))


def _unit() -> str:
    home, folder = Path("/opt/mlx-worker"), Path("/etc/mlx-worker")
    models = Path("/var/lib/mlx-worker/models")
    definition = _example(home, folder / "mlx-worker.toml", models, user=None)
    return Systemd(run, daemon=True).text(definition)


def _example(home: Path, config: Path, models: Path, *, user: str | None) -> Definition:
    return Definition(
        command=(
            *(str(home / ".venv/bin/python"), "-P", "-m", "mlx_worker"),
            *("serve", "--config", str(config)),
        ),
        folder=config.parent,
        stop_timeout=stop_timeout(SupervisorConfig()),
        user=user,
        environment={"MLX_WORKER_MODELS": str(models)},
    )


ROOT: Final = Path(__file__).parents[2]
"""The root of the checkout."""

FILES: Final[Mapping[str, Callable[[], str]]] = {
    "docs/reference/configuration.md": reference.page,
    "docs/reference/commands.md": commands.page,
    "docs/reference/events.md": events.page,
    "docs/reference/exit-codes.md": exit_codes.page,
    "docs/reference/foreign-fields.md": foreign_fields.page,
    "docs/reference/http-api.md": http_api.page,
    "docs/reference/metrics.md": metrics.page,
    "docs/concepts/architecture.md": state_diagram.page,
    "docs/how-to/clients.md": client_page.page,
    "config/mlx-worker.schema.json": _schema,
    "deploy/launchd/mlx-worker.plist": _plist,
    "deploy/systemd/mlx-worker.service": _unit,
}
"""What writes each file."""


def main() -> None:
    """Write all of them."""
    for name, text in FILES.items():
        (ROOT / name).write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
