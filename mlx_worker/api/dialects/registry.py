"""The four dialects of generation, by name.

[front]
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.api.dialects.base import Dialect
from mlx_worker.api.dialects.chat import request as chat
from mlx_worker.api.dialects.chat.response import ChatWriter
from mlx_worker.api.dialects.completions import request as completions
from mlx_worker.api.dialects.completions.response import CompletionWriter
from mlx_worker.api.dialects.messages import request as messages
from mlx_worker.api.dialects.messages.response import MessagesWriter
from mlx_worker.api.dialects.responses import request as responses
from mlx_worker.api.dialects.responses.response import ResponsesWriter

if TYPE_CHECKING:
    from collections.abc import Mapping

CHAT: Final = Dialect(
    "chat", chat.ChatCompletionRequest, chat.parse, ChatWriter, MappingProxyType({})
)
COMPLETIONS: Final = Dialect(
    "completions",
    completions.CompletionRequest,
    completions.parse,
    CompletionWriter,
    MappingProxyType({"messages": "prompt"}),
)
RESPONSES: Final = Dialect(
    "responses",
    responses.ResponseRequest,
    responses.parse,
    ResponsesWriter,
    MappingProxyType({"messages": "input", "max_tokens": "max_output_tokens"}),
)
MESSAGES: Final = Dialect(
    "messages", messages.MessageRequest, messages.parse, MessagesWriter, MappingProxyType({})
)

DIALECTS: Final[Mapping[str, Dialect[Any]]] = MappingProxyType(
    {dialect.name: dialect for dialect in (CHAT, COMPLETIONS, RESPONSES, MESSAGES)}
)
