"""From messages to work that the engine can take at once: text to tokens, shapes to grammars.

Three threads, beside the decode loop. What is short has one to itself, so that nobody waits behind
a long text; what is long has another; grammars have the third. In each, requests take turns, and a
request whose client has left is passed over. What one body says several times is made once. [child]
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from mlx_worker.child.fair_queue import FairQueue
from mlx_worker.engine.prompt import Prompt, check_tokens, system_prefix_tokens
from mlx_worker.limits import check_answer, json_values
from mlx_worker.wire.messages import (
    Detokenize,
    DetokenizeResult,
    Generate,
    Tokenize,
    TokenizeResult,
    Warm,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.child.slow_work import WorkMonitor
    from mlx_worker.engine.structured.compiler import ConstraintCompiler
    from mlx_worker.engine.structured.constraint import Constraint
    from mlx_worker.engine.templates.tool_offer import Offer, ToolOffers
    from mlx_worker.engine.text_bound import TextBound
    from mlx_worker.wire.request import ChatRequest

SHORT: Final = 1 << 16
"""Characters up to which work is short; a value of a message, or a token id, counts as some."""

A_VALUE: Final = 32
A_TOKEN: Final = 4


@dataclass(frozen=True, slots=True)
class ReadyToGenerate:
    """A generation whose prompt is tokenized and whose grammar is compiled."""

    message: Generate
    offer: Offer
    prompt: Prompt
    constraint: Constraint | None


@dataclass(frozen=True, slots=True)
class ReadyToWarm:
    """A system prompt that is tokenized."""

    message: Warm
    head: list[int]


@dataclass(frozen=True, slots=True)
class PreparationFailed:
    """Work that could not be prepared."""

    id: int
    error: BaseException
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class ClientGone:
    """A generation whose client left before it was prepared."""

    id: int


Work = Generate | Warm | Tokenize | Detokenize
Prepared = ReadyToGenerate | ReadyToWarm | PreparationFailed | ClientGone
Answer = TokenizeResult | DetokenizeResult


@dataclass(frozen=True, slots=True)
class PreparationContext:
    """What one model's requests are prepared with."""

    tokenizer: Any
    constraints: ConstraintCompiler
    bound: TextBound
    offers: ToolOffers


class Preparation:
    """One model's. `on_prepared` takes what the engine is to see, `answer` what it need not see."""

    def __init__(
        self,
        *,
        on_prepared: Callable[[Prepared], None],
        answer: Callable[[Answer], None],
        has_left: Callable[[int], bool],
        held: WorkMonitor,
    ) -> None:
        self._on_prepared = on_prepared
        self._answer = answer
        self._has_left = has_left
        self._held = held
        self._short: FairQueue[Work] = FairQueue()
        self._long: FairQueue[Work] = FairQueue()
        self._shapes: FairQueue[tuple[Generate, Offer, Prompt]] = FairQueue()
        self._said: dict[str, tuple[object, Prompt]] = {}

    def put(self, work: Work) -> None:
        """Take work in; never waits."""
        self._short.put(_key(work), work)

    def start(self, tools: PreparationContext) -> None:
        """Begin to work, on threads of its own that end with the process."""

        def run(name: str, turn: Callable[[PreparationContext], None]) -> None:
            def turns() -> None:
                while True:
                    turn(tools)

            threading.Thread(target=turns, name=name, daemon=True).start()

        run("tokenizer", self.short_turn)
        run("long texts", self.long_turn)
        run("grammars", self.shape_turn)

    # --- a turn of each thread ---

    def short_turn(self, tools: PreparationContext) -> None:
        """Prepare the next piece of short work; pass long work on."""
        key, work = self._short.get()
        if is_long(work):
            self._long.put(key, work)
        else:
            self._prepare(key, work, tools)

    def long_turn(self, tools: PreparationContext) -> None:
        """Prepare the next piece of long work."""
        key, work = self._long.get()
        self._prepare(key, work, tools)

    def shape_turn(self, tools: PreparationContext) -> None:
        """Compile the grammar of the next request that has one."""
        _, (message, offer, prompt) = self._shapes.get()
        if self._has_left(message.id):
            self._on_prepared(ClientGone(message.id))
            return
        try:
            with self._held.by("compile"):
                constraint = tools.constraints.of(offer.request, prompt)
        except BaseException as error:  # noqa: BLE001  (nothing of a request may end the thread)
            self._on_prepared(PreparationFailed(message.id, error, message.request_id))
            return
        self._on_prepared(ReadyToGenerate(message, offer, prompt, constraint))

    # --- inside ---

    def _prepare(self, key: str, work: Work, tools: PreparationContext) -> None:
        try:
            if self._has_left(work.id):
                self._on_prepared(ClientGone(work.id))
            else:
                self._do(key, work, tools)
        except BaseException as error:  # noqa: BLE001  (a panic of Rust's is no Exception)
            request_id = work.request_id if isinstance(work, Generate) else ""
            self._on_prepared(PreparationFailed(work.id, error, request_id))
        finally:
            if not (self._short.has(key) or self._long.has(key)):
                self._said.pop(key, None)

    def _do(self, key: str, work: Work, tools: PreparationContext) -> None:
        tokenizer, bound = tools.tokenizer, tools.bound
        match work:
            case Tokenize():
                with self._held.by("prompt"):
                    offer = tools.offers.adapt(work.request)
                    tokens = offer.prompt(tokenizer, bound).tokens
                    told = msgspec.json.encode(tokens)
                    check_answer(told, "prompt" if work.request.prompt is not None else "messages")
                self._answer(TokenizeResult(work.id, len(tokens), told))
            case Detokenize():
                with self._held.by("detokenize"):
                    bound.check_count(work.tokens, "tokens")
                    check_tokens(tokenizer, work.tokens, "tokens")
                    text = msgspec.json.encode(tokenizer.decode(work.tokens))
                    check_answer(text, "tokens")
                self._answer(DetokenizeResult(work.id, text))
            case Warm():
                with self._held.by("prompt"):
                    head = system_prefix_tokens(
                        tokenizer, work.system_prompt, work.template_kwargs, bound
                    )
                self._on_prepared(ReadyToWarm(work, head))
            case Generate():
                with self._held.by("prompt"):
                    offer, prompt = self._prompt(key, work.request, tools)
                if offer.request.constraint is None:
                    self._on_prepared(ReadyToGenerate(work, offer, prompt, None))
                else:
                    self._shapes.put(key, (work, offer, prompt))

    def _prompt(
        self, key: str, request: ChatRequest, tools: PreparationContext
    ) -> tuple[Offer, Prompt]:
        """Make the prompt, or take that of the same body's choice before, where it is equal."""
        offer = tools.offers.adapt(request)
        content = (
            request.messages,
            request.template_kwargs,
            request.tools,
            request.prompt,
            request.opening,
            request.prompt_scoring,
        )
        said = self._said.get(key)
        if said is not None and said[0] == content:
            return offer, said[1]
        prompt = offer.prompt(tools.tokenizer, tools.bound)
        self._said[key] = (content, prompt)
        return offer, prompt


def is_long(work: Work) -> bool:
    """True if the work is more than `SHORT`; looks no further than that."""
    match work:
        case Detokenize():
            return len(work.tokens) * A_TOKEN > SHORT
        case Warm():
            return len(work.system_prompt) > SHORT
        case Tokenize() | Generate():
            return _is_long_request(work.request)


def _is_long_request(request: ChatRequest) -> bool:
    if request.prompt is not None:
        each = 1 if isinstance(request.prompt, str) else A_TOKEN
        return len(request.prompt) * each > SHORT
    size = 0
    for value in json_values([request.messages, request.tools, request.template_kwargs]):
        size += A_VALUE + (len(value) if isinstance(value, str) else 0)
        if size > SHORT:
            return True
    return False


def _key(work: Work) -> str:
    """Whose turn it takes: that of its body."""
    own = work.request_id if isinstance(work, Generate) else ""
    return own or f"#{work.id}"
