"""The section `[server]`: where the front listens, and what it accepts.

Seconds are floats. A key that is None by default has no value unless the file gives one. [front]
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mlx_worker.config.schema.types import Interval, Name, Seconds

Port = Annotated[int, Meta(ge=0, le=65535)]

# The largest body must fit a frame of the pipe (wire.framing.MAX_FRAME).
Bytes = Annotated[int, Meta(ge=1024, le=64 * 1024 * 1024)]

# An origin as browsers write it (scheme://host[:port]), or `*` for every origin.
Origin = Annotated[str, Meta(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^/\s*]{1,200})$")]


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the listener, of access, and of the limits of requests."""

    host: Annotated[
        Name,
        Meta(
            description="Address to listen on: `localhost` (127.0.0.1 and ::1, as far as the"
            " machine has them) or an IP address. `0.0.0.0` is every IPv4 address. `::` is every"
            " address, IPv4 included where the system supports it."
        ),
    ] = "127.0.0.1"
    port: Annotated[
        Port, Meta(description="Port to listen on; 0 lets the system choose a free one.")
    ] = 8081
    models_dir: Annotated[
        Path | None,
        Meta(
            description="Folder in which models are kept. Without this key:"
            " `$MLX_WORKER_MODELS`, else the user's data folder."
        ),
    ] = None
    max_body_bytes: Annotated[
        Bytes | None,
        Meta(
            description="Largest request body in bytes, after decompression; a larger one is"
            " refused with 413. Without this key: 16 bytes for each token of the largest context"
            " among the models, at least 4 MiB, at most 32 MiB. A model without a stated context"
            " counts as 16 MiB."
        ),
    ] = None
    host_names: Annotated[
        tuple[Name, ...],
        Meta(
            description="Names by which browsers may call a node without keys, beside `localhost`"
            " and the machine's own names."
        ),
    ] = ()
    api_keys_file: Annotated[
        Path | None,
        Meta(
            description="File of lines `name:key` and `#` comments, readable by its owner alone."
            " A key has 16 to 512 characters. `$MLX_WORKER_API_KEYS` may hold keys too. Without any"
            " key, every client that reaches the port may send requests."
        ),
    ] = None
    insecure: Annotated[
        bool,
        Meta(description="Allows a `host` that other machines can reach, without any API key."),
    ] = False
    trusted: Annotated[
        tuple[Name, ...],
        Meta(
            description='Addresses and networks, such as `"10.0.0.0/24"`, that need no key for'
            " models, health, cache, warming and generation. With this list and no key, requests"
            " from other addresses are refused, and so is what always needs a key (`/admin`,"
            " `/metrics`)."
        ),
    ] = ()
    tls_cert: Annotated[
        Path | None, Meta(description="Certificate chain, PEM; needs `tls_key` beside it.")
    ] = None
    tls_key: Annotated[
        Path | None,
        Meta(description="Private key of the certificate, PEM, without a password."),
    ] = None
    cors_origins: Annotated[
        tuple[Origin, ...],
        Meta(
            description="Origins of the pages whose scripts may send requests from a browser, or"
            ' `["*"]` for every origin.'
        ),
    ] = ()
    reasoning_summaries: Annotated[
        Literal["asked", "always"],
        Meta(
            description="Which requests of the Responses dialect get reasoning as a summary."
            " `asked`: those that ask for one. `always`: every request, for clients that read only"
            " summaries; a request that does not ask gets the text of the reasoning too."
        ),
    ] = "asked"
    linger: Annotated[
        Seconds,
        Meta(
            description="Seconds that a generation goes on after its client has left, and that its"
            " response is kept after its end, so that the same request joins it. For requests that"
            " name a session, carry `Idempotency-Key`, or come from a client library that repeats"
            " requests (`X-Stainless-Retry-Count`). 0: such a generation ends with its client."
        ),
    ] = 30.0
    linger_plain: Annotated[
        Seconds, Meta(description="The same for all other requests; 0: they end with their client.")
    ] = 0.0
    linger_background: Annotated[
        Interval,
        Meta(
            description="Seconds that a response of `background: true` is kept after its end, for"
            " `GET /v1/responses/{id}`."
        ),
    ] = 600.0
    max_connections: Annotated[
        int,
        Meta(
            ge=1,
            le=65_536,
            description="Largest number of connections that have work at the same time. Above it"
            " idle connections are closed; then new ones get 503 for everything but health. The"
            " node lowers the number to what the limit of open files allows.",
        ),
    ] = 1024
    idle_timeout: Annotated[
        Interval,
        Meta(
            description="Seconds that a connection has to send a whole request head, from its"
            " start or from its last response. Then the node closes the connection."
        ),
    ] = 75.0
    body_timeout: Annotated[
        Interval,
        Meta(
            description="Seconds that a request body may take beyond a second for each 16 KiB that"
            " arrive. Then the request is refused with 408."
        ),
    ] = 20.0
    send_timeout: Annotated[
        Interval,
        Meta(
            description="Seconds after which the response of a client that does not read is"
            " cancelled."
        ),
    ] = 60.0
    first_byte_timeout: Annotated[
        Seconds,
        Meta(
            description="Seconds after which a streamed response begins although its model has not"
            " begun: status, headers and the first event. Then an event tells the client of each"
            " progress, at most one in this time. Without progress nothing is sent. 0 turns it"
            " off: the status then always waits for the model."
        ),
    ] = 5.0
