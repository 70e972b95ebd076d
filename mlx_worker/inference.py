"""A model in this process: load it, generate from it, count its tokens.

The child's service is built on these parts, and a plain Python program may use the functions
directly: same loading, same engine, same tokens. Any thread may call: one thread of this module's
own runs every model. [child]
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
from mlx_worker.engine.kv_cost import ENDLESS
from mlx_worker.engine.loading import read_model
from mlx_worker.engine.mlx_thread import MlxThread
from mlx_worker.engine.prompt import prompt_of, system_prefix_tokens
from mlx_worker.errors import CacheError, InferenceError, ModelNotFoundError, WorkerError, cause_of
from mlx_worker.wire.messages import PromptWarmed, RequestFailed
from mlx_worker.wire.output import Done, RowOutput, StepOutput, visible_text

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from mlx_worker.engine.prompt_cache import CacheFacts
    from mlx_worker.wire.request import ChatRequest

__all__ = ["MODEL_PATH_VARIABLE", "count_tokens", "generate_stream", "load_model"]

MODEL_PATH_VARIABLE = "MLX_MODEL_PATH"
LIBRARY_CONCURRENCY = 8


# --- the models in this process -----------------------------------------------------------

_Heard = RowOutput | Done | PromptWarmed | RequestFailed

_on_mlx_thread = MlxThread().run


class Runtime:
    """One loaded model with its engine, shared by the threads of a program."""

    def __init__(self, model: Any, tokenizer: Any, context_length: int | None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._context_length = context_length
        self.engine = _on_mlx_thread(self._fresh_engine)
        self._ids = itertools.count(1)
        self._said: defaultdict[int, deque[_Heard]] = defaultdict(deque)

    def generate(self, request: ChatRequest) -> Generator[str]:
        """The pieces of one answer, each made when it is asked for."""
        id_ = next(self._ids)
        _on_mlx_thread(lambda: self._admit(id_, request))
        try:
            while True:
                said = _on_mlx_thread(lambda: self._next(id_))
                assert isinstance(said, RowOutput | Done)
                if text := "".join(map(visible_text, said.spans)):
                    yield text
                if isinstance(said, Done):
                    return
        finally:
            _on_mlx_thread(lambda: self._leave(id_))

    def warm(self, system_prompt: str) -> CacheFacts:
        """Prefill a system prompt and keep its KV; returns the cache's facts right after that."""
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
        """After an error that is no request's own, use nothing again that was computed."""
        try:
            yield
        except WorkerError:
            raise
        except Exception:
            self.engine = self._fresh_engine()
            self._said.clear()
            raise

    def _admit(self, id_: int, request: ChatRequest) -> None:
        prompt = prompt_of(self.tokenizer, request)
        with self._computing():
            self.engine.admit(id_, request, prompt)

    def _leave(self, id_: int) -> None:
        self.engine.cancel(id_)
        self._said.pop(id_, None)

    def _warm(self, id_: int, system_prompt: str) -> CacheFacts:
        head = system_prefix_tokens(self.tokenizer, system_prompt)
        with self._computing():
            warmed = self.engine.admit_warm(id_, head, system_prompt)
        said = warmed or self._next(id_)
        self._said.pop(id_, None)
        if isinstance(said, RequestFailed):
            raise CacheError(said.message)
        return self.engine.cache.facts

    def _next(self, id_: int) -> _Heard:
        """What is said next about this id; a step of the engine serves every caller's ids."""
        while not self._said[id_]:
            if not self.engine.active:
                raise InferenceError("the failure of another answer has ended this one")
            with self._computing():
                step = self.engine.step()
                self.engine.confirm()  # mlx may raise an error of this step after it
            for said in step:
                if isinstance(said, StepOutput):
                    for row in said.rows:
                        self._said[row.id].append(row)
                elif isinstance(said, Done | PromptWarmed | RequestFailed):
                    self._said[said.id].append(said)
        return self._said[id_].popleft()


_guard = threading.RLock()
_runtimes: dict[str, Runtime] = {}
_latest: str | None = None


def runtime(path: str | os.PathLike[str] | None = None) -> Runtime:
    """The model at `path`, the one loaded last, or the one MLX_MODEL_PATH names.

    Raises ModelNotFoundError where none of these is to be had.
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
    """Every model in this process; the one that is meant now comes last."""
    with _guard:
        return sorted(_runtimes.values(), key=lambda it: it is _runtimes.get(_latest or ""))


def _runtime_at(path: str | os.PathLike[str], config: dict[str, Any] | None) -> Runtime:
    global _latest  # noqa: PLW0603  (the seed API speaks of "the model loaded last")
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


# --- the seed API -------------------------------------------------------------------------


def load_model(
    path: str | os.PathLike[str], config: dict[str, Any] | None = None
) -> tuple[Any, Any]:
    """Load a model, once per path, and make it the one that is meant from now on.

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
    """Answer a chat, piece by piece, each piece made when it is asked for: its content alone.

    `settings` are those of a request over HTTP, within the same limits: `max_tokens` (default:
    whatever the context leaves), `stop` (a list), `seed`, `template_kwargs`, `temperature`
    (default: greedy), `top_p`, `top_k`, `min_p`, `logit_bias` and the penalties. `cache_prompt`,
    `metadata`, `stream` and `user` are accepted and change nothing. Raises ValueError for no
    messages, InvalidSetting, a ValueError, for a setting outside its limits, TypeError for unknown
    settings, ModelNotFoundError, and InferenceError with the cause for a failure, after the pieces
    made before it.
    """
    if not messages:
        raise ValueError("messages cannot be empty")
    return _later(chat_request(messages, settings), path)


def pieces(chosen: Runtime, request: ChatRequest) -> Generator[str]:
    """The pieces of one answer. Raises InferenceError with the cause for what goes wrong."""
    try:
        yield from chosen.generate(request)
    except WorkerError:
        raise
    except Exception as error:
        raise InferenceError(f"generation failed: {cause_of(error)}") from error


def _later(request: ChatRequest, path: str | os.PathLike[str] | None) -> Generator[str]:
    yield from pieces(runtime(path), request)


def count_tokens(text: str, *, path: str | os.PathLike[str] | None = None) -> int:
    """How many tokens the tokenizer makes of a text; "" is 0.

    Raises ModelNotFoundError where no model is meant.
    """
    if not text:
        return 0
    return len(runtime(path).tokenizer.encode(text))
