"""A model in this process: load it, generate from it, count its tokens.

A child is built on the same loading and engine, and a plain Python program may use these functions
directly, with the same tokens. Any thread may call: a single thread of this module runs every
model. [child]
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import defaultdict, deque
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_worker.engine.engine import Engine
from mlx_worker.engine.generation_settings import chat_request
from mlx_worker.engine.kv.cost import ENDLESS
from mlx_worker.engine.loading import read_model
from mlx_worker.engine.mlx_thread import MlxThread
from mlx_worker.engine.prompt import build_prompt, system_prefix_tokens
from mlx_worker.errors import CacheError, InferenceError, ModelNotFoundError, WorkerError, cause_of
from mlx_worker.wire.messages import RequestFailed
from mlx_worker.wire.output import Done, RowOutput, StepOutput, visible_text
from mlx_worker.wire.prompt_cache import PromptWarmed

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from mlx_worker.engine.kv.prompt_cache import CacheFacts
    from mlx_worker.wire.request import ChatRequest

__all__ = ["MODEL_PATH_VARIABLE", "count_tokens", "generate_stream", "load_model"]

MODEL_PATH_VARIABLE = "MLX_MODEL_PATH"
LIBRARY_CONCURRENCY = 8


# --- the models in this process -----------------------------------------------------------

_EngineMessage = RowOutput | Done | PromptWarmed | RequestFailed

_on_mlx_thread = MlxThread().run


class Runtime:
    """Share one loaded model and its engine among the threads of a program."""

    def __init__(self, model: Any, tokenizer: Any, context_length: int | None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._context_length = context_length
        self.engine = _on_mlx_thread(self._fresh_engine)
        self._ids = itertools.count(1)
        self._messages: defaultdict[int, deque[_EngineMessage]] = defaultdict(deque)

    def generate(self, request: ChatRequest) -> Generator[str]:
        """Yield the pieces of one answer, each generated when the caller asks for the piece."""
        id_ = next(self._ids)
        _on_mlx_thread(lambda: self._admit(id_, request))
        try:
            while True:
                message = _on_mlx_thread(lambda: self._next(id_))
                assert isinstance(message, RowOutput | Done)
                if text := "".join(map(visible_text, message.spans)):
                    yield text
                if isinstance(message, Done):
                    return
        finally:
            _on_mlx_thread(lambda: self._finish(id_))

    def warm(self, system_prompt: str) -> CacheFacts:
        """Prefill a system prompt, keep its KV, and return the cache's facts."""
        return _on_mlx_thread(lambda: self._warm(next(self._ids), system_prompt))

    def clear(self) -> None:
        """Forget every cached prompt."""
        _on_mlx_thread(self.engine.clear_cache)

    # --- on the mlx thread ---

    def _fresh_engine(self) -> Engine:
        return Engine(
            self.model,
            self.tokenizer,
            context_length=self._context_length or ENDLESS,
            max_concurrency=LIBRARY_CONCURRENCY,
        )

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Replace the engine after an error that is no request's own."""
        try:
            yield
        except WorkerError:
            raise
        except Exception:
            self.engine = self._fresh_engine()
            self._messages.clear()
            raise

    def _admit(self, id_: int, request: ChatRequest) -> None:
        prompt = build_prompt(self.tokenizer, request)
        with self._computing():
            self.engine.admit(id_, request, prompt)

    def _finish(self, id_: int) -> None:
        self.engine.cancel(id_)
        self._messages.pop(id_, None)

    def _warm(self, id_: int, system_prompt: str) -> CacheFacts:
        tokens = system_prefix_tokens(self.tokenizer, system_prompt)
        with self._computing():
            warmed = self.engine.admit_warm(id_, tokens, system_prompt)
        message = warmed or self._next(id_)
        self._messages.pop(id_, None)
        if isinstance(message, RequestFailed):
            raise CacheError(message.message)
        return self.engine.cache.facts

    def _next(self, id_: int) -> _EngineMessage:
        """Return the next message about an id; an engine step serves the ids of all callers."""
        while not self._messages[id_]:
            if not self.engine.active:
                raise InferenceError("the generation ended because another generation failed")
            with self._computing():
                step = self.engine.step()
                self.engine.confirm()  # mlx may raise an error of this step after it
            for message in step:
                if isinstance(message, StepOutput):
                    for row in message.rows:
                        self._messages[row.id].append(row)
                elif isinstance(message, Done | PromptWarmed | RequestFailed):
                    self._messages[message.id].append(message)
        return self._messages[id_].popleft()


_guard = threading.RLock()
_runtimes: dict[str, Runtime] = {}
_latest: str | None = None


def runtime(path: str | os.PathLike[str] | None = None) -> Runtime:
    """Return the model at `path`, the model loaded last, or the model that MLX_MODEL_PATH names.

    Raises ModelNotFoundError where there is none of these.
    """
    with _guard:
        if path is None and _latest is not None:
            return _runtimes[_latest]
        wanted = path or os.environ.get(MODEL_PATH_VARIABLE)
        if wanted is None:
            raise ModelNotFoundError(
                f"Model not found: none is loaded and {MODEL_PATH_VARIABLE} is not set"
            )
        return _runtime_at(wanted, None)


def loaded() -> list[Runtime]:
    """Return every model in this process; the current model comes last."""
    with _guard:
        return sorted(_runtimes.values(), key=lambda model: model is _runtimes.get(_latest or ""))


def _runtime_at(path: str | os.PathLike[str], config: dict[str, Any] | None) -> Runtime:
    global _latest  # noqa: PLW0603  (the public functions use the model loaded last)
    key = str(Path(path).expanduser().resolve())
    if key not in _runtimes:
        folder = Path(key)
        try:
            model, tokenizer, context_length = _on_mlx_thread(lambda: read_model(folder, config))
        except ModelNotFoundError:
            raise ModelNotFoundError(f"Model not found: {path}") from None
        except InferenceError:
            raise
        except WorkerError as error:
            raise InferenceError(f"cannot load the model at {path}: {error}") from error
        _runtimes[key] = Runtime(model, tokenizer, context_length)
    _latest = key
    return _runtimes[key]


# --- public functions -------------------------------------------------------------------------


def load_model(
    path: str | os.PathLike[str], config: dict[str, Any] | None = None
) -> tuple[Any, Any]:
    """Load a model, once per path, and make this model the current one.

    `config` overrides entries of its config.json at the first load. Returns (model, tokenizer).
    Raises ModelNotFoundError ("Model not found", with the path) or InferenceError with the cause.
    """
    with _guard:
        chosen = _runtime_at(path, config)
    return chosen.model, chosen.tokenizer


def generate_stream(
    messages: list[dict[str, Any]],
    *,
    path: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> Generator[str]:
    """Answer a chat, piece by piece, content only; a piece is generated when asked for.

    `settings` are those of a request over HTTP, within the same limits: `max_tokens` (default:
    whatever the context leaves), `stop` (a list), `seed`, `template_kwargs`, `temperature`
    (default: greedy), `top_p`, `top_k`, `min_p`, `logit_bias` and the penalties. `cache_prompt`,
    `metadata`, `stream` and `user` are accepted and have no effect. Raises ValueError for no
    messages, InvalidSetting, a ValueError, for a setting outside its limits, TypeError for unknown
    settings, ModelNotFoundError, and InferenceError with the cause for a failure, after the pieces
    made before it.
    """
    if not messages:
        raise ValueError("messages cannot be empty")
    return _later(chat_request(messages, settings), path)


def pieces(chosen: Runtime, request: ChatRequest) -> Generator[str]:
    """Yield the pieces of one answer. Raises InferenceError with the cause of a failure."""
    try:
        yield from chosen.generate(request)
    except WorkerError:
        raise
    except Exception as error:
        raise InferenceError(f"generation failed: {cause_of(error)}") from error


def _later(request: ChatRequest, path: str | os.PathLike[str] | None) -> Generator[str]:
    yield from pieces(runtime(path), request)


def count_tokens(text: str, *, path: str | os.PathLike[str] | None = None) -> int:
    """Return how many tokens the tokenizer makes of a text; "" is 0.

    Raises ModelNotFoundError where no model is loaded.
    """
    if not text:
        return 0
    return len(runtime(path).tokenizer.encode(text))
