"""The schemas that calls of a request's tools have to fit. [both]"""

from __future__ import annotations

from typing import Any, Final

from mlx_worker.errors import InvalidRequest

Schema = dict[str, Any]

ANY_OBJECT: Final[Schema] = {"type": "object"}


def arguments_of(tools: list[Schema], names: list[str]) -> list[Schema]:
    """Return the schemas of what calls of these tools bring: objects. Raises InvalidRequest."""
    functions = {tool["function"]["name"]: tool["function"] for tool in tools}
    schemas = [ANY_OBJECT | (functions[name].get("parameters") or {}) for name in names]
    for name, schema in zip(names, schemas, strict=True):
        if schema["type"] != "object":
            raise InvalidRequest(f"tools: the parameters of {name!r} are no object", param="tools")
    return schemas
