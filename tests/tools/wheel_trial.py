"""Install a built wheel in a clean environment, and have its demo answer.

For releases and `tox -e wheel`: `python -m tests.tools.wheel_trial dist`. The virtual environment
and the home folder are new and are removed afterwards; the demo fetches its model from the package
index. Needs the standard library only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path
from typing import Final

LIMIT: Final = 900
"""Seconds that one command may take."""


def main() -> None:
    """Try the wheel; end with the exit code of the first command that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with one wheel")
    (wheel,) = parser.parse_args().folder.resolve().glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = archive.infolist()
    unpacked = sum(file.file_size for file in files)
    _say(f"{wheel.name}: {wheel.stat().st_size:,} bytes, {len(files)} files, {unpacked:,} unpacked")
    with tempfile.TemporaryDirectory() as folder:
        try:
            _try(wheel, Path(folder))
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)


def _try(wheel: Path, folder: Path) -> None:
    environment, home = folder / "environment", folder / "home"
    home.mkdir()
    venv.create(environment, with_pip=True)
    _run([str(environment / "bin/python"), "-m", "pip", "install", "-q", str(wheel)], folder)
    # Nothing of the user's: neither configuration nor models nor compiled kernels.
    fresh = {name: os.environ[name] for name in KEPT if name in os.environ} | {"HOME": str(home)}
    program = str(environment / "bin/mlx-worker")
    _run([program, "--version"], home, fresh)
    _run([program, "demo", "--once"], home, fresh)


KEPT: Final = (
    *("PATH", "LANG", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
"""Variables that the wheel's commands get from the environment."""


def _run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
    begun = time.monotonic()
    subprocess.run(command, check=True, cwd=folder, env=environment, timeout=LIMIT)
    _say(f"{' '.join([Path(command[0]).name, *command[1:]])}: {time.monotonic() - begun:.1f} s")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
