"""Run commands side by side: `python -m tests.tools.beside "mypy" "pytest -n 2"`.

The output of the last one is shown as it comes, that of the others once all have ended. The exit
status is that of the first that failed, and a command that cannot be found has failed.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile

NOT_FOUND = 127


def main(commands: list[str]) -> int:
    """Run the commands; return the exit status."""
    words = [shlex.split(command) for command in commands]
    if missing := [word[0] for word in words if shutil.which(word[0]) is None]:
        sys.stderr.write(f"there is no {missing[0]}\n")
        return NOT_FOUND
    *quiet, shown = words
    with tempfile.TemporaryFile("w+") as heard:
        beside = [
            subprocess.Popen(item, stdout=heard, stderr=subprocess.STDOUT, text=True)
            for item in quiet
        ]
        last = subprocess.run(shown, check=False)
        codes = [process.wait() for process in beside]
        heard.seek(0)
        sys.stdout.write(heard.read())
    for command, code in zip(commands, [*codes, last.returncode], strict=True):
        sys.stdout.write(f"{command}: exit status {code}\n")
    return next((code for code in (*codes, last.returncode) if code), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
