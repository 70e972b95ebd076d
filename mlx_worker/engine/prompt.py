"""A chat as the token ids that the model reads.

The model's own template makes the text. The system prefix of a prompt is what every chat with the
same system prompt shares. The prefix ends a segment, so that its KV can serve the next session.
Runs beside the decode loop, never in the loop. [child]
"""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from transformers import PreTrainedTokenizerBase

from mlx_worker.engine.history.tokens import TokenizedText
from mlx_worker.engine.kv.prefix import WORTH_FETCHING, common_prefix
from mlx_worker.engine.output.markers import CONTENT, opening_state
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
    from collections.abc import Iterator, Sequence

    from mlx_worker.engine.checks.text_bound import TextBound
    from mlx_worker.engine.history.memory import TurnPlace
    from mlx_worker.engine.history.recall import Recall
    from mlx_worker.engine.templates.chat_text import Messages
    from mlx_worker.wire.parting import Parting
    from mlx_worker.wire.request import ChatRequest, Opening
    from mlx_worker.wire.splice import Splice

Tools = list[dict[str, Any]]

PREDICTED: Final = 8
"""Characters of a prediction that are tokenized, for each token of the context."""

RESERVED = frozenset(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters)
"""Arguments of the tokenizer itself, which a request may not set; only the template's."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Hold the tokens of a prompt; chats with the same system prompt share `system_prefix` of them.

    `system` is the raw system prompt. `segment_ends` are where the later segments end, in tokens,
    rising: history, last turn. `state` is where the answer begins, e.g. in the middle of reasoning:
    see `engine/output/markers`. `text` is what an answer that echoes a raw prompt begins with,
    where the prompt's tokens are scored. `parting` says where the prompt parts from the last one of
    its session. `splices` are the stretches with tokens of earlier answers; `answer_place` is where
    the answer is remembered, None where it is not. `prediction` are tokens that the answer may
    repeat.
    """

    tokens: list[int]
    system_prefix: int
    system: str
    segment_ends: tuple[int, ...] = ()
    state: str = CONTENT
    text: str = ""
    parting: Parting | None = None
    splices: tuple[Splice, ...] = ()
    answer_place: TurnPlace | None = None
    prediction: tuple[int, ...] = ()

    @property
    def all_segment_ends(self) -> list[int]:
        """Return where all segments end: system prefix, history, last turn."""
        return sorted({self.system_prefix, *self.segment_ends} - {0})


def build_prompt(
    tokenizer: Any,
    request: ChatRequest,
    bound: TextBound | None = None,
    recall: Recall | None = None,
) -> Prompt:
    """Return the prompt of a request. Raises InvalidRequest.

    `bound` refuses, before the work, what is too large for the template or for the context.
    `recall` splices earlier answers; None: the text alone is read.
    """
    if request.prompt is not None:
        tokens = _raw(tokenizer, request.prompt, bound)
        return Prompt(tokens, 0, "", text=_echoed(tokenizer, request))
    check_conversation(request, "messages")
    if bound is not None:
        _check_amount(request, bound)
    prompt = render(
        tokenizer,
        request.messages,
        request.template_kwargs,
        request.tools,
        bound,
        request.opening,
        recall if request.prompt_scoring is None else None,
    )
    if not request.prediction:
        return prompt
    most = PREDICTED * bound.context_length if bound is not None else None
    predicted = _tokenize(tokenizer, request.prediction[:most], "prediction").tokens
    return replace(prompt, prediction=tuple(predicted))


def _check_amount(request: ChatRequest, bound: TextBound) -> None:
    """Raise for more than a template may be given: templates walk over messages many times."""
    check_amount(request)
    if len(request.messages) > bound.context_length:
        turns = sum(
            bool(turn.get("content") or turn.get("tool_calls")) for turn in request.messages
        )
        if turns > bound.context_length:  # each turn is a token at least
            raise ContextLengthExceeded.of(turns, bound.context_length, "messages", estimated=True)


def render(
    tokenizer: Any,
    messages: Messages,
    template_kwargs: dict[str, Any],
    tools: Tools | None = None,
    bound: TextBound | None = None,
    opening: Opening = "turn",
    recall: Recall | None = None,
) -> Prompt:
    """Apply the template and tokenize.

    Raises InvalidRequest with the template's refusal, and UnsupportedField where tools are offered
    to a model whose template has no tool calls.
    """
    if reserved := RESERVED & template_kwargs.keys():
        raise InvalidRequest(
            f"chat_template_kwargs: {min(reserved)!r} is reserved for the server",
            param="chat_template_kwargs",
        )
    kwargs = template_kwargs
    if tools:
        kwargs = template_kwargs | {"tools": tools}
        _check_tools_shown(tokenizer, kwargs, template_kwargs)
    text = opened_text(tokenizer, messages, kwargs, opening)
    if bound is not None:
        bound.check_text(text, "messages")
    splices = recall.splices(text) if recall is not None else []
    tokenized = _tokenize(tokenizer, text, "messages", splices)
    tokens = tokenized.tokens
    if splices and bound is not None and len(tokens) > bound.context_length:
        splices = []  # a model may have spelled its words in more tokens than they need
        tokenized = _tokenize(tokenizer, text, "messages")
        tokens = tokenized.tokens
    if not tokens:
        raise InvalidRequest("the model's chat template made an empty prompt", param="messages")
    probes = segment_probes(tokenizer, messages, kwargs, unused_mark(text))
    # The last token is never part of a segment: the model must read at least one.
    parted = (tokenized.tokens_before(common_prefix(text, other)) for other in probes)
    ends = [min(end, len(tokens) - 1) for end in parted]
    system_prefix, *segment_ends = ends
    system = system_text(messages)
    if not system and system_prefix < WORTH_FETCHING:
        system_prefix = 0  # a template's first words are worth no segment of their own
    state = opening_state(tokenizer, tokens, continues=opening == "continued")
    is_turn = recall is not None and opening != "none"
    return Prompt(
        tokens,
        system_prefix,
        system,
        tuple(end for end in segment_ends if end > system_prefix),
        state,
        splices=tuple(splices),
        answer_place=recall.place_of(text, tokens, state) if recall and is_turn else None,
    )


def system_prefix_tokens(
    tokenizer: Any,
    system_prompt: str,
    template_kwargs: dict[str, Any] | None = None,
    bound: TextBound | None = None,
) -> list[int]:
    """Return the tokens that a warmed system prompt puts into the cache; none for an empty one.

    `template_kwargs` are those of the chats that the prompt is warmed for.
    """
    if not system_prompt:
        return []
    mark = unused_mark(system_prompt)
    system = [{"role": "system", "content": system_prompt}]
    text = probe(tokenizer, system, EMPTY_USER_TURN, template_kwargs or {}, mark)
    if bound is not None:
        bound.check_text(text, "system_prompt")
    tokenized = _tokenize(tokenizer, text, "system_prompt")
    return tokenized.tokens[: tokenized.tokens_before(max(0, text.find(mark)))]


def _check_tools_shown(tokenizer: Any, kwargs: dict[str, Any], without: dict[str, Any]) -> None:
    """Raise UnsupportedField if the template does not show tools, or calls could not be parsed."""
    shown, hidden = (chat_text(tokenizer, [EMPTY_USER_TURN], given) for given in (kwargs, without))
    if not tokenizer.has_tool_calling or shown == hidden:
        raise UnsupportedField(
            "tools: this model's chat template has no tool calls; in the configuration, "
            'tools = "prompt" in the model\'s section describes tools in the system prompt',
            param="tools",
        )


def _raw(tokenizer: Any, prompt: str | list[int], bound: TextBound | None) -> list[int]:
    """Return the tokens of a raw prompt, text being tokenized as by mlx_lm's own server."""
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
        raise InvalidRequest("prompt: must not be empty", param="prompt")
    return tokens


def _echoed(tokenizer: Any, request: ChatRequest) -> str:
    """Return the text of a raw prompt; "" where its tokens are not scored with it."""
    scoring = request.prompt_scoring
    if scoring is None or scoring.echoed is None or request.prompt is None:
        return ""
    prompt = request.prompt
    return prompt if isinstance(prompt, str) else str(tokenizer.decode(prompt))


def check_tokens(tokenizer: Any, tokens: list[int], field: str) -> None:
    """Raise InvalidRequest for a token id outside the model's vocabulary."""
    size = len(tokenizer)
    wrong = next((token for token in tokens if not 0 <= token < size), None)
    if wrong is not None:
        raise InvalidRequest(
            f"{field}: token id {wrong} is outside the vocabulary of {size}", param=field
        )


# --- text and tokens ----------------------------------------------------------------------


@contextlib.contextmanager
def _text_refusal(field: str) -> Iterator[None]:
    """Raise InvalidRequest for half of a surrogate pair, which Rust's tokenizers do not take."""
    try:
        yield
    except (TypeError, UnicodeError) as error:
        raise InvalidRequest(f"{field}: not valid text: {error}", param=field) from error


def _tokenize(
    tokenizer: Any, text: str, field: str, splices: Sequence[Splice] = ()
) -> TokenizedText:
    """Return the tokens of a text. Raises InvalidRequest."""
    with _text_refusal(field):
        return TokenizedText(tokenizer, text, splices)
