"""Fill in the template of the Homebrew formula for a built release.

For releases: `python -m tests.tools.formula dist --repository OWNER/NAME` prints the formula of the
wheel in `dist`. Needs the standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from typing import Final

from tests.tools.release import ROOT, version_of

TEMPLATE: Final = ROOT / "deploy" / "homebrew" / "mlx-worker.rb"


def formula(wheel: Path, repository: str) -> str:
    """Return the formula that installs this wheel from the repository's release."""
    home = f"https://github.com/{repository}"
    values = {
        "@HOME@": home,
        "@URL@": f"{home}/releases/download/v{version_of()}/{wheel.name}",
        "@VERSION@": version_of(),
        "@SHA256@": hashlib.sha256(wheel.read_bytes()).hexdigest(),
    }
    text = TEMPLATE.read_text(encoding="utf-8").partition("\n\n")[2]
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def main() -> None:
    """Print the formula."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with one wheel")
    parser.add_argument("--repository", required=True, metavar="OWNER/NAME")
    given = parser.parse_args()
    (wheel,) = given.folder.glob("*.whl")
    sys.stdout.write(formula(wheel, given.repository))


if __name__ == "__main__":
    main()
