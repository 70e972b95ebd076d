"""List every endpoint: the table fills the router, and `openapi.json` is made of it.

[front]
"""

from __future__ import annotations

from mlx_worker.api.routes.administration import ADMINISTRATION_ROUTES
from mlx_worker.api.routes.generation import GENERATION_ROUTES
from mlx_worker.api.routes.node import NODE_ROUTES
from mlx_worker.api.routes.observation import OBSERVATION_ROUTES

ROUTES = (*GENERATION_ROUTES, *NODE_ROUTES, *OBSERVATION_ROUTES, *ADMINISTRATION_ROUTES)
