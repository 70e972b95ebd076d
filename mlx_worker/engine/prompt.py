"""A chat as the token ids that the model reads.

The model's own template makes the text. The head of a prompt is what every chat with the same
system prompt shares: it ends a segment, so that its KV can serve the next session. Runs beside the
decode loop, never in it. [child]
"""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from mlx_worker.engine.output.markers import CONTENT, opening_state
from mlx_worker.engine.prefix import WORTH_FETCHING, common_prefix
from mlx_worker.engine.templates.chat_text import chat_text, opened_text, system_text
from mlx_worker.engine.templates.segments import (
    EMPTY_USER_TURN,
    probe,
    segment_probes,
    unused_mark,
)
from mlx_worker.errors import ContextLengthExceeded, InvalidRequest, UnsupportedField
from mlx_worker.limits import check_amount, check_conversation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlx_worker.engine.templates.chat_text import Messages
    from mlx_worker.engine.text_bound import TextBound
    from mlx_worker.wire.request import ChatRequest, Opening

Tools = list[dict[str, Any]]

RESERVED = frozenset(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters)
"""Names that steer the tokenizer itself; a request may speak to the template only."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """`tokens` of the whole prompt, `system_prefix` of them shared, `system` the raw system prompt.

    `segment_ends` are where its later segments end, in tokens, rising: history, last turn. `state`
    is where the answer begins, e.g. in the middle of reasoning: see `engine/output/markers`. `text`
    is what an answer that echoes a raw prompt begins with, where its tokens are scored.
    """

    tokens: list[int]
    system_prefix: int
    system: str
    segment_ends: tuple[int, ...] = ()
    state: str = CONTENT
    text: str = ""

    @property
    def all_segment_ends(self) -> list[int]:
        """Where segments end: system, history, last turn."""
        return sorted({self.system_prefix, *self.segment_ends} - {0})


def prompt_of(tokenizer: Any, request: ChatRequest, bound: TextBound | None = None) -> Prompt:
    """Return what the model is to read for a request. Raises InvalidRequest.

    `bound` refuses, before the work, what is too much for the template or for the context.
    """
    if request.prompt is not None:
        tokens = _raw(tokenizer, request.prompt, bound)
        return Prompt(tokens, 0, "", text=_echoed(tokenizer, request))
    check_conversation(request, "messages")
    if bound is not None:
        _check_amount(request, bound)
    return render(
        tokenizer,
        request.messages,
        request.template_kwargs,
        request.tools,
        bound,
        request.opening,
    )


def _check_amount(request: ChatRequest, bound: TextBound) -> None:
    """Raise for more than a template may be given: it may walk over all of it, many times."""
    check_amount(request)
    if len(request.messages) > bound.context_length:
        turns = sum(
            bool(turn.get("content") or turn.get("tool_calls")) for turn in request.messages
        )
        if turns > bound.context_length:  # each of them is a token at least
            raise ContextLengthExceeded.of(turns, bound.context_length, "messages", estimated=True)


def render(
    tokenizer: Any,
    messages: Messages,
    template_kwargs: dict[str, Any],
    tools: Tools | None = None,
    bound: TextBound | None = None,
    opening: Opening = "turn",
) -> Prompt:
    """Apply the template and tokenize. Raises InvalidRequest with what the template refused.

    UnsupportedField where tools are offered to a model that has no way to call them.
    """
    if reserved := RESERVED & template_kwargs.keys():
        raise InvalidRequest(
            f"chat_template_kwargs: {min(reserved)!r} is not the template's to be told",
            param="chat_template_kwargs",
        )
    told = template_kwargs
    if tools:
        told = template_kwargs | {"tools": tools}
        _refuse_unheard(tokenizer, told, template_kwargs)
    text = opened_text(tokenizer, messages, told, opening)
    if bound is not None:
        bound.check_text(text, "messages")
    tokens, place_of = _tokenize(tokenizer, text, "messages")
    if not tokens:
        raise InvalidRequest("the chat template made an empty prompt", param="messages")
    others = segment_probes(tokenizer, messages, told, unused_mark(text))
    # The last token is never part of a segment: the model must read at least one.
    head, *borders = (min(place_of(common_prefix(text, it)), len(tokens) - 1) for it in others)
    system = system_text(messages)
    if not system and head < WORTH_FETCHING:
        head = 0  # a template's first words are worth no segment of their own
    return Prompt(
        tokens,
        head,
        system,
        tuple(it for it in borders if it > head),
        opening_state(tokenizer, tokens, continues=opening == "continued"),
    )


def system_prefix_tokens(
    tokenizer: Any,
    system_prompt: str,
    template_kwargs: dict[str, Any] | None = None,
    bound: TextBound | None = None,
) -> list[int]:
    """The tokens that a warmed system prompt puts into the cache; none for an empty one.

    `template_kwargs` are those of the chats that it is warmed for.
    """
    if not system_prompt:
        return []
    mark = unused_mark(system_prompt)
    system = [{"role": "system", "content": system_prompt}]
    text = probe(tokenizer, system, EMPTY_USER_TURN, template_kwargs or {}, mark)
    if bound is not None:
        bound.check_text(text, "system_prompt")
    tokens, place_of = _tokenize(tokenizer, text, "system_prompt")
    return tokens[: place_of(max(0, text.find(mark)))]


def _refuse_unheard(tokenizer: Any, told: dict[str, Any], without: dict[str, Any]) -> None:
    """Tools that the template does not show the model, or calls that nobody could read."""
    heard, unheard = (chat_text(tokenizer, [EMPTY_USER_TURN], kwargs) for kwargs in (told, without))
    if not tokenizer.has_tool_calling or heard == unheard:
        raise UnsupportedField("tools: this model's chat template has no tool calls", param="tools")


def _raw(tokenizer: Any, prompt: str | list[int], bound: TextBound | None) -> list[int]:
    """Text as mlx_lm's own server reads it; tokens as they are."""
    if isinstance(prompt, str):
        if bound is not None:
            bound.check_text(prompt, "prompt")
        with _text_refusal("prompt"):
            tokens = list(tokenizer.encode(prompt))
    else:
        if bound is not None:
            bound.check_count(prompt, "prompt")
        check_tokens(tokenizer, prompt, "prompt")
        tokens = prompt
    if not tokens:
        raise InvalidRequest("prompt: is empty", param="prompt")
    return tokens


def _echoed(tokenizer: Any, request: ChatRequest) -> str:
    """Return the text of a raw prompt; "" where its tokens are not scored with it."""
    scoring = request.prompt_scoring
    if scoring is None or scoring.echoed is None or request.prompt is None:
        return ""
    prompt = request.prompt
    return prompt if isinstance(prompt, str) else str(tokenizer.decode(prompt))


def check_tokens(tokenizer: Any, tokens: list[int], field: str) -> None:
    """Raises InvalidRequest where one is no token of this model."""
    size = len(tokenizer)
    wrong = next((token for token in tokens if not 0 <= token < size), None)
    if wrong is not None:
        raise InvalidRequest(f"{field}: token {wrong}; the vocabulary has {size}", param=field)


# --- text and tokens ----------------------------------------------------------------------


@contextlib.contextmanager
def _text_refusal(field: str) -> Iterator[None]:
    """Half of a surrogate pair is no text: Rust's tokenizers do not take it."""
    try:
        yield
    except (TypeError, UnicodeError) as error:
        raise InvalidRequest(f"{field}: this is no text: {error}", param=field) from error


def _tokenize(tokenizer: Any, text: str, field: str) -> tuple[list[int], Callable[[int], int]]:
    """The text's token ids, and how many of them are whole before a character.

    A tokenizer that does not know (one that is not in Rust) has no segments.
    """
    with _text_refusal(field):
        encoded = tokenizer._tokenizer(text, add_special_tokens=False)  # noqa: SLF001
    tokens = list(encoded["input_ids"])

    def place_of(character: int) -> int:
        if not encoded.is_fast:
            return 0
        # A character that no token covers was dropped by the tokenizer: the next one counts.
        covered = (encoded.char_to_token(at) for at in range(character, len(text)))
        return next((token for token in covered if token is not None), len(tokens))

    return tokens, place_of
