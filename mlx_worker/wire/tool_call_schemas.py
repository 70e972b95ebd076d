"""The schemas that calls of a request's tools have to fit.

[both]
"""

from __future__ import annotations

from typing import Any, Final

from mlx_worker.errors import InvalidRequest

Schema = dict[str, Any]

ANY_OBJECT: Final[Schema] = {"type": "object"}


def arguments_of(tools: list[Schema], names: list[str]) -> list[Schema]:
    """Return the schemas of the arguments of these tools, all objects. Raises InvalidRequest."""
    functions = {tool["function"]["name"]: tool["function"] for tool in tools}
    return [_object(name, functions[name].get("parameters") or {}) for name in names]


def _object(name: str, parameters: Schema) -> Schema:
    """Return parameters as the schema of an object, which arguments always are."""
    kind = parameters.get("type")
    if kind not in (None, "object") and not (isinstance(kind, list) and "object" in kind):
        raise InvalidRequest(f"tools: the parameters of {name!r} are not an object", param="tools")
    return parameters | ANY_OBJECT
