"""A model folder to everything that serves requests: engine, tokenizer, grammars, tools.

[child]
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_worker.child.kv_blocks import BlockReporter
from mlx_worker.child.ranks.leading import OtherRanks
from mlx_worker.engine.engine import Engine
from mlx_worker.engine.kv.cost import max_row_tokens, measure_kv_cost
from mlx_worker.engine.kv.disk.tier import TierOpening
from mlx_worker.engine.loading import read_model, weight_bytes, weight_type
from mlx_worker.engine.speculation.draft_loading import LoadedDraft, load_draft
from mlx_worker.engine.speculation.ladder import Ladder, ladder_of
from mlx_worker.engine.structured.compiler import ConstraintCompiler
from mlx_worker.engine.templates.rules import rules_of
from mlx_worker.engine.templates.tool_offer import ToolOffers
from mlx_worker.engine.weights_hash import check_unchanged, folder_state, model_identity
from mlx_worker.errors import BadModelFolder, ModelNotFoundError, UnservableModel
from mlx_worker.kv_disk.files.names import record_in_background
from mlx_worker.system.process_titles import set_title
from mlx_worker.wire.messages import Load, Loaded, LoadFailed, LoadProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mlx_worker.child.imported_code import ImportedCode
    from mlx_worker.engine.kv.disk.tier import DiskTier
    from mlx_worker.wire.base import WireMessage
    from mlx_worker.wire.kv_cost import KvCost

PERMANENT = (ModelNotFoundError, BadModelFolder, UnservableModel)
"""Errors that another try would meet again."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """The parts that serve one model's requests."""

    engine: Engine
    tokenizer: Any
    constraints: ConstraintCompiler
    offers: ToolOffers
    disk: DiskTier | None = None


@contextmanager
def _failure_told(
    folder: Path, code: ImportedCode, send: Callable[[Iterable[WireMessage]], None]
) -> Iterator[None]:
    """Send `LoadFailed` with an error, also where the folder or the code changed meanwhile."""
    before = folder_state(folder)
    try:
        yield
        check_unchanged(folder, before)
        code.check_unchanged()
    except Exception as error:
        # What is missing from a folder that is being replaced may be there at the next try.
        permanent = isinstance(error, PERMANENT) and folder_state(folder) == before
        send([LoadFailed(str(error) or type(error).__name__, permanent)])
        raise


def _other_ranks(
    load: Load, folder: Path, code: ImportedCode, send: Callable[[Iterable[WireMessage]], None]
) -> OtherRanks | None:
    """Return the other ranks of a model that several processes compute, once all have joined."""
    if load.place is None:
        return None
    return OtherRanks.gather(load.place, folder, code.versions(), send)


def load_model(
    load: Load,
    code: ImportedCode,
    *,
    send: Callable[[Iterable[WireMessage]], None],
    on_encoded: Callable[[], None],
) -> LoadedModel:
    """Load a model and send `Loaded`, or `LoadFailed` with the error, which is raised again."""
    set_title(load.model)
    folder = Path(load.path)
    with _failure_told(folder, code, send):
        ranks = _other_ranks(load, folder, code, send)
        model, tokenizer, context = read_model(
            folder,
            on_progress=lambda done, total: send([LoadProgress(done, total)]),
            chat_template=load.chat_template,
            context_length=load.context_length,
            dtype=load.dtype,
            keep_part=None if ranks is None else ranks.keep_part,
        )
        # Before other threads compute: what is measured here decides whether rows draft.
        ladder = _ladder(load, model, ranks)
        draft = _load_draft(load, (model, tokenizer), ladder)
        offers = ToolOffers(tokenizer, load.tools)
        constraints = ConstraintCompiler(tokenizer)
        texts = _start_texts(tokenizer, constraints)
        weights = model_identity(folder, model, _configured(load))
        opening = _start_tier(load, model, weights, code)
        if ranks is not None:
            ranks.wait_until_loaded(send)
            load = ranks.within_room(load)
            weights = ranks.identity_with(weights)
        kv = measure_kv_cost(model) if ranks is None else ranks.measure_kv_cost(model)
        kv = kv.beside(draft.kv)
        disk = opening.wait() if opening else None
        engine = Engine(
            model,
            tokenizer,
            context_length=context or max_row_tokens(kv, load.kv_bytes),
            max_concurrency=load.max_concurrency,
            cache_bytes=load.cache_bytes,
            kv=kv,
            kv_bytes=load.kv_bytes,
            prefill_pause=load.prefill_pause,
            remember_turns=load.remember_turns,
            on_encoded=on_encoded,
            ladder=ladder,
            draft_model=draft.model,
            disk=disk,
            cache_observer=_block_reporter(load, send),
            ranks=None if ranks is None else ranks.log,
        )
    if disk is not None:
        record_in_background(Path(disk.disk.path), disk.identity.digest, load.model)
    texts.join()
    if ranks is not None:
        ranks.watch()
    further = ranks.weight_bytes if ranks is not None else draft.weight_bytes
    send([_loaded(context, model, further, engine, kv, weights, draft)])
    return LoadedModel(engine, tokenizer, constraints, offers, disk)


def _ladder(load: Load, model: Any, ranks: OtherRanks | None) -> Ladder:
    """Return the measured passes of a model, or why it drafts nothing."""
    if ranks is not None:
        return Ladder({}, "several processes compute the model")
    return ladder_of(model, load.max_concurrency, load.speculation)


def _load_draft(load: Load, loaded: tuple[Any, Any], ladder: Ladder) -> LoadedDraft:
    """Load the configured draft model, if there is one."""
    if not load.draft:
        return LoadedDraft()
    return load_draft(Path(load.draft), loaded, ladder, load.max_concurrency, load.dtype)


def _loaded(
    context: int | None,
    model: Any,
    further: int,
    engine: Engine,
    kv: KvCost,
    weights: str,
    draft: LoadedDraft,
) -> Loaded:
    """Return what the front is told of a model that was loaded.

    `further` are bytes of weights outside the model: those of other ranks, or of the draft model.
    """
    return Loaded(
        context,
        weight_bytes(model) + further,
        engine.unbatched,
        kv,
        weights,
        dtype=weight_type(model),
        no_speculation=engine.speculation.off,
        pass_costs=engine.speculation.pass_costs,
        no_draft_model=draft.because,
        draft_costs=draft.ladder.pass_costs if draft.ladder else [],
    )


def _block_reporter(
    load: Load, send: Callable[[Iterable[WireMessage]], None]
) -> BlockReporter | None:
    """Return what reports the blocks of the prompt cache; None if the front needs no reports."""
    if not load.report_blocks:
        return None
    reporter = BlockReporter(send)
    reporter.start()
    return reporter


def _start_tier(load: Load, model: Any, weights: str, code: ImportedCode) -> TierOpening | None:
    """Begin to open the model's KV on disk; None if the model keeps none."""
    if load.disk is None:
        return None
    return TierOpening.start(
        load.disk,
        model,
        weights,
        code.versions(),
        cache_bytes=load.cache_bytes,
        remember_turns=load.remember_turns,
    )


def _start_texts(tokenizer: Any, constraints: ConstraintCompiler) -> threading.Thread:
    """Start a thread for `_prepare_texts`, which holds the interpreter: no stream runs yet."""
    texts = threading.Thread(target=_prepare_texts, args=(tokenizer, constraints), name="texts")
    texts.start()
    return texts


def _prepare_texts(tokenizer: Any, constraints: ConstraintCompiler) -> None:
    """Make what the first request would wait for: grammars' vocabulary, the template's rules.

    Not the bound of long texts: with a large vocabulary the bound takes 0.1 s and more, and only a
    text with more characters than the context has tokens asks for it.
    """
    constraints.prepare()
    rules_of(tokenizer)


def _configured(load: Load) -> tuple[str, ...]:
    """Return what the configuration makes of prompts; () for what the folder alone would."""
    differs = load.chat_template is not None or load.tools != "refuse"
    return (load.chat_template or "", load.tools) if differs else ()
