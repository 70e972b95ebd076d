"""Choose which of the front's environment variables a child process gets: no secrets.

A child runs model code and reads files from other people. A child talks to nothing but its front,
so it needs no credentials. The rule is a deny-list. An allow-list would be tighter, but what a
child needs cannot be listed: the loader (LD_*, DYLD_*), mlx and Metal (MLX_*, MTL_*), CUDA, BLAS
and OpenMP libraries, locales, sanitizers, profilers and coverage tools all read variables of
their own, and one that is missing shows as a wrong device or a slow model, not as an error.
Secrets, however, follow conventions: words in the name (TOKEN, SECRET, PASSWORD, KEY, …), the
prefixes of cloud providers, and URLs that hold a password. What a child must have in spite of its
name is set explicitly by the configuration or by the front.

[front]
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SECRET_PART: Final = re.compile(
    r"TOKEN(?!IZ)|SECRET|PASSW|PASSPHRASE|CREDENTIAL|BEARER|COOKIE|APIKEY|ACCESSKEY|PRIVATEKEY"
)
"""A part of a name that says what the value is. TOKENIZERS_PARALLELISM holds no token."""

SECRET_WORD: Final = frozenset(
    {"KEY", "KEYS", "AUTH", "AUTHORIZATION", "PASS", "PWD", "PAT", "JWT", "HEADERS"}
)
"""The same as a whole word between underscores: HEADERS are a collector's, with its key."""

SECRET_PREFIX: Final = ("AWS_", "AZURE_", "GCP_", "GOOGLE_", "OTEL_", "SSH_", "VAULT_")
"""Cloud providers, and traces, which only the front sends."""

NEEDED: Final = re.compile(r"(PWD|OLDPWD)$|(LD|DYLD|LC|MTL|METAL|PYTHON)_?|MLX_(?!WORKER_)")
"""Names that are kept whatever word is in them, from their beginning."""

PASSWORD_IN_URL: Final = re.compile(r"://[^/@\s]+@")
"""A user, and mostly a password: a proxy, an index or a database."""


def is_secret(name: str, value: str) -> bool:
    """Return True if children do not get the variable."""
    if PASSWORD_IN_URL.search(value):
        return True
    name = name.upper()
    if NEEDED.match(name):
        return False
    return (
        name.startswith(SECRET_PREFIX)
        or SECRET_PART.search(name) is not None
        or not SECRET_WORD.isdisjoint(name.split("_"))
    )


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that children inherit."""
    return {name: value for name, value in environ.items() if not is_secret(name, value)}
