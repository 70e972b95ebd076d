"""API keys: secrets that only a caller and this node know.

A line is `name:key`. The name is for the log; the key itself is written nowhere, and kept here as
its hash alone, so that nothing that prints a value can tell it. [front]
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_worker.config.addresses import is_loopback
from mlx_worker.config.schema import KEYS_VARIABLE
from mlx_worker.errors import ConfigError
from mlx_worker.system.text_files import decode_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mlx_worker.config.schema import ServerConfig

SHORTEST = 16
"""Characters of a key: fewer could be guessed."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
# What a header carries unchanged; a comma separates keys in the environment.
_KEY = re.compile(rf"[!-+\--~]{{{SHORTEST},512}}")
_OTHERS_MAY = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a node: a hash for each name. Empty: no key is asked for."""

    hashes: tuple[tuple[str, bytes], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.hashes)

    def name_of(self, key: str) -> str | None:
        """Return the name that the key belongs to; None if the key is unknown.

        A wrong key takes as long as a right one.
        """
        asked = _hashed(key)
        found = None
        for name, known in self.hashes:
            if hmac.compare_digest(asked, known):
                found = name
        return found


def load_keys(server: ServerConfig, environ: Mapping[str, str] | None = None) -> Keys:
    """Return the keys of the file and of the environment together.

    Raises ConfigError with the line, never with the key. Raises ConfigError too if there is no key
    and other machines could send requests.
    """
    taken = dict(_named_keys(server, os.environ if environ is None else environ))
    if not (taken or server.trusted or server.insecure or is_loopback(server.host)):
        raise ConfigError(
            f"server.host: other machines could send requests to {server.host!r} without an API key"
        )
    return Keys(tuple((name, _hashed(key)) for name, key in taken.items()))


def first_key(server: ServerConfig) -> str | None:
    """Return the first key itself, which commands send to this node; None if there is none.

    Raises ConfigError as `load_keys` does.
    """
    return next((key for _, key in _named_keys(server, os.environ)), None)


def _named_keys(server: ServerConfig, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield every (name, key)."""
    names: dict[str, str] = {}
    for place, line in _uncommented_lines(server, environ):
        name, colon, key = (part.strip() for part in line.partition(":"))
        if not (colon and _NAME.fullmatch(name)):
            raise ConfigError(
                f"{place}: is not `name:key` with a name of 1 to 64 letters, digits, '.', '_', '-'"
            )
        if not _KEY.fullmatch(key):
            raise ConfigError(
                f"{place}: the key of {name!r} is not {SHORTEST} to 512 characters of ASCII"
                " without spaces and commas"
            )
        if name in names:
            raise ConfigError(f"{place}: {name!r} has a key already, at {names[name]}")
        names[name] = place
        yield name, key


def _uncommented_lines(
    server: ServerConfig, environ: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield (place, line) of every line that is no comment."""
    if server.api_keys_file is not None:
        yield from _numbered_lines(
            str(server.api_keys_file), _read_private_file(server.api_keys_file).splitlines()
        )
    if KEYS_VARIABLE in environ:
        yield from _numbered_lines(KEYS_VARIABLE, re.split(r"[,\n]", environ[KEYS_VARIABLE]))


def _numbered_lines(source: str, lines: list[str]) -> Iterator[tuple[str, str]]:
    count = 0
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            count += 1
            yield f"{source}:{number}", line
    if not count:
        raise ConfigError(f"{source}: the list has no key")


def _read_private_file(file: Path) -> str:
    """Return the text of the file. Raises ConfigError if others than its owner may use the file.

    The mode is read from the open file, so that the file cannot be replaced in between.
    """
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            if mode & _OTHERS_MAY:
                raise ConfigError(
                    f"server.api_keys_file: others can access {file} (mode {mode & 0o777:03o}):"
                    f" chmod 600 {file}"
                )
            return decode_text(opened.read())
    except FileNotFoundError as error:
        raise ConfigError(f"server.api_keys_file: {file}: there is no such file") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"server.api_keys_file: {file} cannot be read: {reason}") from error


def _hashed(key: str) -> bytes:
    """Return the hash of a key; hashes of one length hide the lengths of the keys."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
