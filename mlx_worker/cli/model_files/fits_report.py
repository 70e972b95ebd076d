"""What `mlx-worker fits` prints: lines for people, an object for programs.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlx_worker.config.sizes import in_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlx_worker.cli.model_files.memory_needs import Found
    from mlx_worker.supervisor.memory.fit import MemoryFit, Question
    from mlx_worker.wire.kv_cost import KvCost

LABEL: Final = 14
UNKNOWN: Final = "unknown"


def report_of(found: Found, question: Question) -> dict[str, Any]:
    """Return the JSON object; null is unknown, and of a context without a limit."""
    fit, needs = found.fit, found.fit.needs
    context = _context_asked(fit, question)
    return {
        "model": found.name,
        "path": str(found.path),
        "modelType": found.model_type,
        "fits": fit.answer(question),
        "weightBytes": fit.weight_bytes,
        "weightsComputed": found.is_computed,
        "dtype": found.dtype or None,
        "processBytes": fit.process_bytes,
        "machineBytes": found.machine_bytes,
        "memoryLimitBytes": fit.limit,
        "pinnedBytes": sum(claim.at_start for claim in fit.pinned),
        "kvBudgetBytes": fit.kv_budget,
        "kv": None if needs.kv is None else _kv(needs.kv),
        "contextLength": fit.context_length,
        "rows": question.rows,
        "context": context,
        "rowsKvBytes": None if context is None else fit.kv_bytes(question.rows, context),
        "maxContext": fit.max_context(question.rows),
        "maxRows": None if context is None else fit.max_rows(context),
        "unbatched": needs.unbatched or None,
        "unknown": list(needs.unknown),
        "notes": [*needs.notes, *found.warnings],
    }


def lines(found: Found, question: Question) -> Iterator[str]:
    """Yield the lines of the report; the last ones answer the question."""
    fit, needs = found.fit, found.fit.needs
    where = "" if found.is_computed else f", {found.path}"
    yield f"{found.name}: {found.model_type}{where}"
    of_weights = "computed" if found.is_computed else "by the headers of the files"
    of_weights += f", in {found.dtype}" if found.dtype else ""
    yield _line("weights", _bytes(fit.weight_bytes), of_weights)
    yield _line("process", _bytes(fit.process_bytes), "interpreter, mlx, tokenizer: an estimate")
    if fit.pinned:
        pinned = sum(claim.at_start for claim in fit.pinned)
        yield _line("pinned models", _bytes(pinned), "stay in memory beside this one")
    machine = f"for the processes of all models; this machine has {in_words(found.machine_bytes)}"
    yield _line("memory limit", _bytes(fit.limit), machine)
    beside = ", beside KV on its way to and from disk" if fit.disk_buffers else ""
    yield _line("KV budget", _bytes(fit.kv_budget), f"what is left for requests{beside}")
    yield _line("KV", *_kv_in_words(needs.kv))
    length = fit.context_length
    yield _line("context", f"{length} tokens" if length else "no limit", "of the model")
    yield from _answers(fit, question)
    for text in (*needs.unknown, *([needs.unbatched] if needs.unbatched else [])):
        yield f"unknown: {text}" if text in needs.unknown else f"one request at a time: {text}"
    for note in (*needs.notes, *found.warnings):
        yield f"note: {note}"
    yield _verdict(fit, question)


def _answers(fit: MemoryFit, question: Question) -> Iterator[str]:
    most = fit.max_context(question.rows)
    rows = f"{question.rows} row{'s' if question.rows > 1 else ''}"
    if most is not None:
        yield _line(rows, f"up to {most} tokens each", "")
    context = _context_asked(fit, question)
    is_read = context is not None and context <= (fit.context_length or context)
    if context and is_read and (count := fit.max_rows(context)) is not None:
        kv = in_words(fit.kv_bytes(1, context) or 0)
        yield _line(f"{context} tokens", f"up to {count} rows", f"{kv} each")


def _verdict(fit: MemoryFit, question: Question) -> str:
    what = f"{question.rows} x {question.context} tokens" if question.context else "the model"
    match fit.answer(question):
        case True:
            return f"fits: {what}"
        case False:
            return f"does not fit: {what}; {_why_not(fit, question)}"
        case None:
            return f"unknown whether this fits: {what}"


def _why_not(fit: MemoryFit, question: Question) -> str:
    if fit.starts is False:
        return f"weights and process need {_bytes(fit.start_bytes)}, more than there is"
    context, own = question.context, fit.context_length
    if context is not None and own is not None and context > own:
        return f"the model reads {own} tokens at most"
    needed = fit.kv_bytes(question.rows, context or 1) or 0
    return f"KV of {in_words(needed)} is over the budget"


def _context_asked(fit: MemoryFit, question: Question) -> int | None:
    """Return the tokens of a row in the question, else the longest that the model reads."""
    return question.context or fit.context_length or fit.max_context(question.rows)


def _kv(cost: KvCost) -> dict[str, Any]:
    growing = [{"bytes": part.per_token, "until": part.until} for part in cost.growing]
    return {"fixedBytes": cost.fixed, "perToken": growing}


def _kv_in_words(cost: KvCost | None) -> tuple[str, str]:
    if cost is None:
        return UNKNOWN, ""
    parts = [
        f"{in_words(part.per_token)} a token"
        + ("" if part.until is None else f" up to {part.until} tokens")
        for part in cost.growing
    ]
    if cost.fixed or not parts:
        parts.append(f"{in_words(cost.fixed)} a row at any length")
    return parts[0], ", ".join(["of each row", *parts[1:]])


def _bytes(nbytes: int | None) -> str:
    return UNKNOWN if nbytes is None else in_words(nbytes)


def _line(label: str, value: str, about: str) -> str:
    return f"  {label:{LABEL}} {value:22} {about}".rstrip()
