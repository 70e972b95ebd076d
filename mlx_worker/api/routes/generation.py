"""List the endpoints that generate tokens or count them.

[front]
"""

from __future__ import annotations

from functools import partial

from mlx_worker.api.dialects.messages.request import MessageRequest
from mlx_worker.api.dialects.native.tokenize import DetokenizeRequest, TokenizeRequest
from mlx_worker.api.dialects.registry import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from mlx_worker.api.generation import token_endpoints
from mlx_worker.api.generation.endpoints import generate
from mlx_worker.api.generation.lingering import response_endpoints
from mlx_worker.api.route import (
    GENERATION,
    PROMPT_ONLY,
    JsonKeys,
    Route,
)
from mlx_worker.errors import ResponseCancelled, ResponseNotFound

_COMPLETION = JsonKeys.of("id object created model system_fingerprint choices usage seed")
_RESPONSE = JsonKeys.of(
    "id object created_at model status error incomplete_details output usage seed instructions"
    " max_output_tokens metadata parallel_tool_calls reasoning temperature top_p text tool_choice"
    " tools background previous_response_id store truncation"
)
_MESSAGE = JsonKeys.of("id type role model content stop_reason stop_sequence usage")

GENERATION_ROUTES = (
    Route(
        method="POST",
        path="chat/completions",
        handler=partial(generate, CHAT),
        access="trusted",
        summary="OpenAI chat completions",
        body=CHAT.body,
        answer=_COMPLETION,
        streams=True,
        errors=GENERATION,
    ),
    Route(
        method="POST",
        path="completions",
        handler=partial(generate, COMPLETIONS),
        access="trusted",
        summary="OpenAI completions (legacy): raw prompts, by text or token ids",
        body=COMPLETIONS.body,
        answer=_COMPLETION,
        streams=True,
        errors=GENERATION,
    ),
    Route(
        method="POST",
        path="responses",
        handler=partial(generate, RESPONSES),
        access="trusted",
        summary="OpenAI responses; each request contains the conversation",
        body=RESPONSES.body,
        answer=_RESPONSE,
        streams=True,
        errors=(*GENERATION, ResponseCancelled),
    ),
    Route(
        method="GET",
        path="responses/{id}",
        handler=response_endpoints.retrieve,
        access="trusted",
        summary="A response that runs, or is kept for a while after its end",
        answer=_RESPONSE,
        streams=True,
        query=("stream", "starting_after"),
        errors=(*GENERATION, ResponseCancelled, ResponseNotFound),
    ),
    Route(
        method="POST",
        path="responses/{id}/cancel",
        handler=response_endpoints.cancel,
        access="trusted",
        summary="Cancel a response that is made in the background",
        answer=_RESPONSE,
        errors=(ResponseNotFound,),
    ),
    Route(
        method="POST",
        path="messages",
        handler=partial(generate, MESSAGES),
        access="trusted",
        summary="Anthropic messages",
        body=MESSAGES.body,
        answer=_MESSAGE,
        streams=True,
        errors=GENERATION,
    ),
    Route(
        method="POST",
        path="messages/count_tokens",
        handler=token_endpoints.count_tokens,
        access="trusted",
        summary="Number of tokens that the model would read",
        body=MessageRequest,
        answer=token_endpoints.TokenCount,
        errors=PROMPT_ONLY,
    ),
    Route(
        method="POST",
        path="tokenize",
        handler=token_endpoints.tokenize,
        access="trusted",
        summary="Tokens of a text, or of the prompt that messages make",
        body=TokenizeRequest,
        answer=token_endpoints.TokenizeResponse,
        errors=PROMPT_ONLY,
    ),
    Route(
        method="POST",
        path="detokenize",
        handler=token_endpoints.detokenize,
        access="trusted",
        summary="Text of tokens",
        body=DetokenizeRequest,
        answer=token_endpoints.DetokenizeResponse,
        errors=PROMPT_ONLY,
    ),
)
