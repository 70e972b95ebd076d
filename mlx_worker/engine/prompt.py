"""A chat as the token ids that the model reads.

The model's own template makes the text. The head of a prompt is what every chat with the same
system prompt shares: it ends a segment, so that its KV can serve the next session. Runs beside the
decode loop, never in it. [child]
"""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from mlx_worker.engine.output.markers import CONTENT, opening_state
from mlx_worker.engine.prefill import WORTH_FETCHING, common_prefix
from mlx_worker.engine.templates.continuation import CONTINUED, continued_text
from mlx_worker.engine.templates.rules import REFUSALS, fit_to_template
from mlx_worker.errors import ContextLengthExceeded, InvalidRequest, UnsupportedField
from mlx_worker.limits import check_amount, check_conversation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlx_worker.engine.text_bound import TextBound
    from mlx_worker.wire.messages import ChatRequest, Opening

Messages = list[dict[str, Any]]
Tools = list[dict[str, Any]]

RESERVED = frozenset(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters)
"""Names that steer the tokenizer itself; a request may speak to the template only."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """`tokens` of the whole prompt, `head` of them shared, `system` the raw system prompt.

    `borders` are where its later segments end, in tokens, rising: history, last turn. `state` is
    where the answer begins, e.g. in the middle of reasoning: see `engine/markers`. `text` is what
    an answer that echoes a raw prompt begins with, where its tokens are scored.
    """

    tokens: list[int]
    head: int
    system: str
    borders: tuple[int, ...] = ()
    state: str = CONTENT
    text: str = ""

    @property
    def segments(self) -> list[int]:
        """Where segments end: system, history, last turn."""
        return sorted({self.head, *self.borders} - {0})


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


def system_text(messages: Messages) -> str:
    """The raw system prompt of a chat; several parts are one text."""
    return "\n\n".join(str(message["content"] or "") for message in _system_part(messages))


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
    text = _opened_text(tokenizer, messages, told, opening)
    if bound is not None:
        bound.check_text(text, "messages")
    tokens, place_of = _tokenize(tokenizer, text, "messages")
    if not tokens:
        raise InvalidRequest("the chat template made an empty prompt", param="messages")
    others = _that_differ_after_a_segment(tokenizer, messages, told, _mark(text))
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


def _opened_text(
    tokenizer: Any, messages: Messages, kwargs: dict[str, Any], opening: Opening
) -> str:
    """Return the text of a chat and what the answer begins with."""
    if opening != "continued":
        return _text(tokenizer, messages, kwargs, add_generation_prompt=opening == "turn")
    told = kwargs | CONTINUED
    return continued_text(
        tokenizer,
        messages,
        lambda: _text(tokenizer, messages, told, add_generation_prompt=False),
    )


def chat_text(tokenizer: Any, messages: Messages, template_kwargs: dict[str, Any]) -> str:
    """Return the text that the template makes of a chat, up to its end. Raises InvalidRequest."""
    return _text(tokenizer, messages, template_kwargs, add_generation_prompt=False)


def warm_head(
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
    mark = _mark(system_prompt)
    system = [{"role": "system", "content": system_prompt}]
    probe = _probe(tokenizer, system, _USER, template_kwargs or {}, mark)
    if bound is not None:
        bound.check_text(probe, "system_prompt")
    tokens, place_of = _tokenize(tokenizer, probe, "system_prompt")
    return tokens[: place_of(max(0, probe.find(mark)))]


# --- segments -----------------------------------------------------------------------------

_USER = {"role": "user", "content": ""}


def _mark(text: str) -> str:
    """A character that the text does not have: where it is in a probe, a user's words begin."""
    # Few are tried, for each is a search of the text: with all of them in it, a segment may end a
    # character late, and costs a little reuse.
    unused = (mark for mark in map(chr, range(0xE000, 0xE020)) if mark not in text)
    return next(unused, "\ue000")


def _that_differ_after_a_segment(
    tokenizer: Any, messages: Messages, kwargs: dict[str, Any], mark: str
) -> list[str]:
    """Chats like this one up to the end of: system, history, last turn."""
    last = _last_turn(messages)
    try:
        turn = _text(tokenizer, messages, kwargs, add_generation_prompt=False)
    except InvalidRequest:
        turn = ""
    return [
        _of_head(tokenizer, _Head.of(_system_part(messages), kwargs), mark),
        _probe(tokenizer, messages[:last], messages[last], kwargs, mark) if last else "",
        turn,
    ]


@dataclass(frozen=True, slots=True)
class _Head:
    """A system part and what else the template is told; many chats have the same."""

    key: str
    system: Messages = field(compare=False)
    kwargs: dict[str, Any] = field(compare=False)

    @classmethod
    def of(cls, system: Messages, kwargs: dict[str, Any]) -> _Head:
        return cls(repr((system, kwargs)), system, kwargs)


@lru_cache(maxsize=16)
def _of_head(tokenizer: Any, head: _Head, mark: str) -> str:
    return _probe(tokenizer, head.system, _USER, head.kwargs, mark)


def _probe(
    tokenizer: Any, before: Messages, turn: dict[str, Any], kwargs: dict[str, Any], mark: str
) -> str:
    """The text of a chat whose last turn says nothing that another would; "" if refused."""
    try:
        return _text(
            tokenizer, [*before, {**turn, "content": mark}], kwargs, add_generation_prompt=False
        )
    except InvalidRequest:
        return ""


def _last_turn(messages: Messages) -> int:
    """Where what was said since the assistant's last words begins; 0: it said nothing yet."""
    said = (i for i, m in enumerate(messages[:-1], 1) if m["role"] == "assistant")
    return max(said, default=0)


def _refuse_unheard(tokenizer: Any, told: dict[str, Any], without: dict[str, Any]) -> None:
    """Tools that the template does not show the model, or calls that nobody could read."""
    heard, unheard = (
        _text(tokenizer, [_USER], kwargs, add_generation_prompt=False) for kwargs in (told, without)
    )
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


def _system_part(messages: Messages) -> Messages:
    end = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))
    return messages[:end]


# --- text and tokens ----------------------------------------------------------------------


def _text(
    tokenizer: Any, messages: Messages, kwargs: dict[str, Any], *, add_generation_prompt: bool
) -> str:
    if not tokenizer.has_chat_template:
        raise InvalidRequest("this model has no chat template", param="messages")
    try:
        return str(
            tokenizer.apply_chat_template(
                fit_to_template(tokenizer, messages),
                **_with_both_names(kwargs, tokenizer),
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        )
    except REFUSALS as error:
        raise InvalidRequest(
            f"the model's chat template refuses these messages: {error}", param="messages"
        ) from error


_SWITCHES = ("enable_thinking", "thinking")
"""What templates call the switch of reasoning."""


def _with_both_names(kwargs: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Return a template's arguments with a switch of reasoning under both names.

    A template takes no notice of the name that it does not know; a program of mlx_lm's would
    refuse it, and has its switch from mlx_lm.
    """
    given = [name for name in _SWITCHES if name in kwargs]
    if len(given) != 1 or tokenizer._chat_template is not None:  # noqa: SLF001
        return kwargs
    return dict.fromkeys(_SWITCHES, kwargs[given[0]]) | kwargs


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
