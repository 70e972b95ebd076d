"""Messages to work that the engine can start at once: text to tokens, constraints to grammars.

Three threads work beside the decode loop: one for short texts, so that these never wait behind a
long text, one for long texts, one for grammars. In each, requests take turns, and a request whose
client has disconnected is skipped. What one body has several times is made once. [child]
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import msgspec

from mlx_worker.child.fair_queue import FairQueue
from mlx_worker.engine.history.recall import Recall
from mlx_worker.engine.partings import PartingMemory
from mlx_worker.engine.prompt import Prompt, check_tokens, system_prefix_tokens
from mlx_worker.limits import check_answer, json_values
from mlx_worker.wire.messages import Generate
from mlx_worker.wire.prompt_cache import Warm
from mlx_worker.wire.tokenizing import Detokenize, DetokenizeResult, Tokenize, TokenizeResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.child.slow_work import WorkMonitor
    from mlx_worker.engine.checks.text_bound import TextBound
    from mlx_worker.engine.history.history import TurnHistory
    from mlx_worker.engine.structured.compiler import ConstraintCompiler
    from mlx_worker.engine.structured.constraint import Constraint
    from mlx_worker.engine.templates.tool_offer import Offer, ToolOffers
    from mlx_worker.wire.request import ChatRequest
    from mlx_worker.wire.splice import Splice

SHORT: Final = 1 << 16
"""Characters up to which work is short; a value of a message, or a token id, counts as several."""

A_VALUE: Final = 32
A_TOKEN: Final = 4


@dataclass(frozen=True, slots=True)
class ReadyToGenerate:
    """Hold a generation whose prompt is tokenized and whose grammar is compiled."""

    message: Generate
    offer: Offer
    prompt: Prompt
    constraint: Constraint | None


@dataclass(frozen=True, slots=True)
class ReadyToWarm:
    """Hold a system prompt that is tokenized."""

    message: Warm
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class PreparationFailed:
    """Report that a request could not be prepared."""

    id: int
    error: BaseException
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class ClientGone:
    """Report that a client disconnected before its generation was prepared."""

    id: int


Work = Generate | Warm | Tokenize | Detokenize
Prepared = ReadyToGenerate | ReadyToWarm | PreparationFailed | ClientGone
Answer = TokenizeResult | DetokenizeResult


@dataclass(frozen=True, slots=True)
class PreparationContext:
    """Hold what one model's requests are prepared with; `drafts`: rows of the model may draft."""

    tokenizer: Any
    constraints: ConstraintCompiler
    bound: TextBound
    offers: ToolOffers
    history: TurnHistory
    drafts: bool


class Preparation:
    """Prepare one model's requests: `on_prepared` takes work for the engine, `answer` the rest."""

    def __init__(
        self,
        *,
        on_prepared: Callable[[Prepared], None],
        answer: Callable[[Answer], None],
        is_cancelled: Callable[[int], bool],
        monitor: WorkMonitor,
    ) -> None:
        self._on_prepared = on_prepared
        self._answer = answer
        self._is_cancelled = is_cancelled
        self._monitor = monitor
        self._short: FairQueue[Work] = FairQueue()
        self._long: FairQueue[Work] = FairQueue()
        self._grammars: FairQueue[tuple[Generate, Offer, Prompt]] = FairQueue()
        self._made: dict[str, tuple[object, Prompt]] = {}
        self.partings = PartingMemory()

    def put(self, work: Work) -> None:
        """Add work; never wait."""
        self._short.put(_key(work), work)

    def start(self, tools: PreparationContext) -> None:
        """Start the threads, which end with the process."""

        def run(name: str, turn: Callable[[PreparationContext], None]) -> None:
            def turns() -> None:
                while True:
                    turn(tools)

            threading.Thread(target=turns, name=name, daemon=True).start()

        run("tokenizer", self.short_turn)
        run("long texts", self.long_turn)
        run("grammars", self.grammar_turn)

    # --- a turn of each thread ---

    def short_turn(self, tools: PreparationContext) -> None:
        """Prepare the next piece of short work; pass long work on."""
        key, work = self._short.get()
        if not tools.drafts:
            work = _without_prediction(work)
        if is_long(work):
            self._long.put(key, work)
        else:
            self._prepare(key, work, tools)

    def long_turn(self, tools: PreparationContext) -> None:
        """Prepare the next piece of long work."""
        key, work = self._long.get()
        self._prepare(key, work, tools)

    def grammar_turn(self, tools: PreparationContext) -> None:
        """Compile the grammar of the next request that has one."""
        _, (message, offer, prompt) = self._grammars.get()
        if self._is_cancelled(message.id):
            self._on_prepared(ClientGone(message.id))
            return
        try:
            with self._monitor.measure("compile"):
                constraint = tools.constraints.compile(offer.request, prompt)
        except BaseException as error:  # noqa: BLE001  (no error of a request may end the thread)
            self._on_prepared(PreparationFailed(message.id, error, message.request_id))
            return
        self._on_prepared(ReadyToGenerate(message, offer, prompt, constraint))

    # --- inside ---

    def _prepare(self, key: str, work: Work, tools: PreparationContext) -> None:
        try:
            if self._is_cancelled(work.id):
                self._on_prepared(ClientGone(work.id))
            else:
                self._do(key, work, tools)
        except BaseException as error:  # noqa: BLE001  (a panic of Rust's is no Exception)
            request_id = work.request_id if isinstance(work, Generate) else ""
            self._on_prepared(PreparationFailed(work.id, error, request_id))
        finally:
            if not (self._short.has(key) or self._long.has(key)):
                self._made.pop(key, None)

    def _do(self, key: str, work: Work, tools: PreparationContext) -> None:
        tokenizer, bound = tools.tokenizer, tools.bound
        match work:
            case Tokenize():
                with self._monitor.measure("prompt"):
                    offer = tools.offers.adapt(work.request)
                    recall = Recall(tools.history, offer.request.tools)
                    tokens = offer.prompt(tokenizer, bound, recall).tokens
                    encoded = msgspec.json.encode(tokens)
                    check_answer(
                        encoded, "prompt" if work.request.prompt is not None else "messages"
                    )
                self._answer(TokenizeResult(work.id, len(tokens), encoded))
            case Detokenize():
                with self._monitor.measure("detokenize"):
                    bound.check_count(work.tokens, "tokens")
                    check_tokens(tokenizer, work.tokens, "tokens")
                    text = msgspec.json.encode(tokenizer.decode(work.tokens))
                    check_answer(text, "tokens")
                self._answer(DetokenizeResult(work.id, text))
            case Warm():
                with self._monitor.measure("prompt"):
                    tokens = system_prefix_tokens(
                        tokenizer, work.system_prompt, work.template_kwargs, bound
                    )
                self._on_prepared(ReadyToWarm(work, tokens))
            case Generate():
                with self._monitor.measure("prompt"):
                    offer, prompt = self._prompt(key, work.request, work.splices, tools)
                    parting = self.partings.part(work.session, key, work.request, prompt)
                    if parting is not None:
                        prompt = replace(prompt, parting=parting)
                if offer.request.constraint is None:
                    self._on_prepared(ReadyToGenerate(work, offer, prompt, None))
                else:
                    self._grammars.put(key, (work, offer, prompt))

    def _prompt(
        self,
        key: str,
        request: ChatRequest,
        splices: list[Splice] | None,
        tools: PreparationContext,
    ) -> tuple[Offer, Prompt]:
        """Make the prompt, or return that of the same body's choice before, if equal."""
        offer = tools.offers.adapt(request)
        content = (
            request.messages,
            request.template_kwargs,
            request.tools,
            request.prompt,
            request.opening,
            request.prompt_scoring,
            request.prediction,
            splices,
        )
        made = self._made.get(key)
        if made is not None and made[0] == content:
            return offer, made[1]
        recall = Recall(tools.history, offer.request.tools, splices)
        prompt = offer.prompt(tools.tokenizer, tools.bound, recall)
        self._made[key] = (content, prompt)
        return offer, prompt


def is_long(work: Work) -> bool:
    """Return True if work is larger than `SHORT`; count no further than that."""
    match work:
        case Detokenize():
            return len(work.tokens) * A_TOKEN > SHORT
        case Warm():
            return len(work.system_prompt) > SHORT
        case Tokenize() | Generate():
            return _is_long_request(work.request)


def _without_prediction(work: Work) -> Work:
    """Return work without a text that only drafts need."""
    if not isinstance(work, Generate) or not work.request.prediction:
        return work
    request = msgspec.structs.replace(work.request, prediction="")
    return msgspec.structs.replace(work, request=request)


def _is_long_request(request: ChatRequest) -> bool:
    if request.prompt is not None:
        each = 1 if isinstance(request.prompt, str) else A_TOKEN
        return len(request.prompt) * each > SHORT
    size = len(request.prediction)
    for value in json_values([request.messages, request.tools, request.template_kwargs]):
        size += A_VALUE + (len(value) if isinstance(value, str) else 0)
        if size > SHORT:
            return True
    return False


def _key(work: Work) -> str:
    """Return the key whose turn the work takes: all choices of one body have one."""
    return work.body if isinstance(work, Generate) else f"#{work.id}"
