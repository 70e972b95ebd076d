"""Folders that macOS guards: a program without a permission of its own may not read them.

The system asks a person at the screen. A service, which has no window, is refused without a
question (EPERM), even if the files belong to its user. [both]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

OF_HOME: Final = ("Desktop", "Documents", "Downloads", "Library/Mobile Documents")
VOLUMES: Final = Path("/Volumes")

ADVICE: Final = (
    "move the files elsewhere in the home folder, or allow this Python under System Settings,"
    " Privacy & Security, Full Disk Access"
)


def guarded(
    paths: Iterable[Path], *, home: Path | None = None, platform: str = sys.platform
) -> list[Path]:
    """Return those of the paths that macOS guards: Desktop, Documents, Downloads, volumes."""
    if platform != "darwin":
        return []
    places = [(home or Path.home()) / name for name in OF_HOME] + [VOLUMES]
    return [path for path in paths if any(path.is_relative_to(place) for place in places)]


def hint(platform: str = sys.platform) -> str:
    """Return what to do about a refusal, to be put behind the error; "" on other systems."""
    if platform != "darwin":
        return ""
    return f"; macOS guards Documents, Desktop, Downloads and external volumes: {ADVICE}"
