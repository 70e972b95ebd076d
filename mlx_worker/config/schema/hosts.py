"""The section `[[hosts]]`: a machine that computes a part of models.

A model names its hosts by `hosts`; the first of them is the node's own machine. [both]
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from mlx_worker.config.schema.types import Name
from mlx_worker.config.sizes import MemoryLimit

HERE: Final = "here"
"""The name of the node's own machine, which needs no section."""


class HostConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one machine."""

    name: Annotated[Name, Meta(description="Name of the host in `hosts` of a model.")]
    address: Annotated[
        str,
        Meta(
            max_length=15,
            description="IPv4 address at which the other hosts reach this one, on the network that"
            " carries the parts of a model: that of a cable between them. The connections are"
            " neither encrypted nor authenticated.",
        ),
    ]
    run: Annotated[
        tuple[str, ...],
        Meta(
            max_length=64,
            description="Command that runs another command on the host, whose words are appended,"
            ' and passes its standard input and output on: `["ssh", "studio2"]`. The node appends'
            " `mlx-worker rank`. Without this key the host is the node's own machine.",
        ),
    ] = ()
    models_dir: Annotated[
        str,
        Meta(
            max_length=4096,
            description="Models folder on another host, in which a model's `path` is looked up."
            " Without this key: that of commands there.",
        ),
    ] = ""
    memory_limit: Annotated[
        MemoryLimit | None,
        Meta(
            description="Memory of another host for its part of a model and of the KV: a share of"
            ' the machine, or bytes as in "96GB". Without this key: 0.8 of the machine, on macOS'
            " 0.75."
        ),
    ] = None
    rdma: Annotated[
        dict[str, str],
        Meta(
            description="RDMA device of this host towards each other host, by the name of that"
            ' host, as in `{ here = "rdma_en5" }`; for `transport = "jaccl"`.'
        ),
    ] = {}

    @property
    def is_here(self) -> bool:
        """True if the host is the node's own machine."""
        return not self.run
