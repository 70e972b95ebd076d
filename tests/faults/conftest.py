"""Fronts with scripted children, as the front's own tests have them."""

from tests.front.conftest import (  # noqa: F401  (fixtures and a hook: pytest finds them by name)
    pace,
    pytest_asyncio_loop_factories,
    serve,
)
