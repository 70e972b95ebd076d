"""The section `[telemetry]`: where OpenTelemetry traces are sent.

Applied by `mlx_worker.api.metrics`; sending needs the extra `telemetry`. [front]
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

BaseUrl = Annotated[str, Meta(pattern=r"^https?://[^/\s?#]{1,255}(/[^\s?#]{0,1000})?$")]


class TelemetryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of tracing."""

    endpoint: Annotated[
        BaseUrl | None,
        Meta(
            description="Base URL of a collector (OTLP over HTTP). Without this key no traces are"
            " sent. All other settings are OpenTelemetry's own variables, such as"
            " `$OTEL_EXPORTER_OTLP_HEADERS`."
        ),
    ] = None
