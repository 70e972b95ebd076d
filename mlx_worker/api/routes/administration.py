"""List the endpoints that change what the node runs.

[front]
"""

from __future__ import annotations

from mlx_worker.api.admin import (
    endpoints,
    model_endpoints,
    request_endpoints,
    schemas,
)
from mlx_worker.api.admin.reload import CannotReload, Reloaded
from mlx_worker.api.route import (
    Route,
)
from mlx_worker.errors import (
    MemoryFull,
    ModelBusy,
    ModelTooLarge,
    NodeDraining,
    RequestNotFound,
    UnknownModel,
)

ADMINISTRATION_ROUTES = (
    Route(
        method="POST",
        path="admin/reload",
        handler=endpoints.reload,
        summary="Reload the configuration",
        answer=Reloaded,
        errors=(CannotReload, NodeDraining),
    ),
    Route(
        method="POST",
        path="admin/requests/{id:.+}/cancel",
        handler=request_endpoints.cancel,
        summary="End a generation request; its client gets the error `cancelled_by_operator`",
        answer=schemas.Cancelled,
        errors=(RequestNotFound,),
    ),
    Route(
        method="POST",
        path="admin/models/{id:.+}/restart",
        handler=model_endpoints.restart,
        summary="Restart a model's process, also one that was given up",
        answer=schemas.Restarting,
        statuses=(202,),
        errors=(UnknownModel, MemoryFull, ModelTooLarge, NodeDraining),
    ),
    Route(
        method="POST",
        path="admin/models/{id:.+}/load",
        handler=model_endpoints.load,
        summary="Start a model's process, also one that was given up",
        answer=schemas.Loading,
        statuses=(202,),
        errors=(UnknownModel, MemoryFull, ModelTooLarge, NodeDraining),
    ),
    Route(
        method="POST",
        path="admin/models/{id:.+}/unload",
        handler=model_endpoints.unload,
        summary="End a model's process until a request needs the model",
        answer=schemas.Unloading,
        statuses=(202,),
        errors=(UnknownModel, ModelBusy, NodeDraining),
    ),
)
