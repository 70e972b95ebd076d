"""Write docs/how-to/clients.md: the settings of every client for an example node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlx_worker.cli.client_blocks import CLIENTS
from mlx_worker.cli.client_blocks.client import NO_KEY, ClientTarget
from mlx_worker.config.schema import KEY_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlx_worker.cli.client_blocks.client import ClientBlock

EXAMPLE: Final = ClientTarget("http://127.0.0.1:8081", "qwen3-coder", 128_000)

_BEGINNING: Final = f"""\
# Connect a client

`mlx-worker client-config NAME` prints the settings of a client for the node that runs: its URL, a
model's name, the context length of that model, and a limit for answers of a quarter of the context,
at most 32,000 tokens.

```sh
mlx-worker client-config codex                       # the first model that the node lists
mlx-worker client-config codex --model small         # another, by name or alias
mlx-worker client-config codex --url http://10.0.0.5:8081
```

The command changes no file. The settings go to stdout, and a line that says where they belong goes
to stderr. The key of the node is never printed: a client reads the key from the environment
variable `{KEY_VARIABLE}`, or from what its section names. So set this variable where the client
runs. A node without keys takes any text: where a client insists on a key, say
`export {KEY_VARIABLE}={NO_KEY}`. What to do when a client gets an error is in
[Connect your agent](connect-your-agent.md#when-it-does-not-work).

Each section below has these settings for one client, with a model `{EXAMPLE.model}` of
{EXAMPLE.context:,} tokens on `{EXAMPLE.url}`. The authors run every client here with its section
against a node (`tox -e clients`): text, streams, a tool that is called and answered, structured
output. The versions that they run are in `tests/clients/prefixes.py`.
"""


def page() -> str:
    """Return the page."""
    return "\n".join((_BEGINNING, *_sections()))


def _sections() -> Iterator[str]:
    for client in CLIENTS.values():
        yield _section(client)


def _section(client: ClientBlock) -> str:
    notes = f"\n{client.notes}\n" if client.notes else ""
    return (
        f"## {client.title}\n\n`mlx-worker client-config {client.name}`, {client.place}:\n\n"
        f"```{client.language}\n{client.write(EXAMPLE)}```\n{notes}"
    )
