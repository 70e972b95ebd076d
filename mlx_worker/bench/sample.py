"""The result of one measurement, and the labels of its figures.

[bench]
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


class Sample(msgspec.Struct):
    """The figures of one scenario, one target and one round.

    `figures` have the names below; `gaps` are the percentiles 0..100 of the pauses between a
    stream's arrivals, in milliseconds (empty if not of interest); `complaints` say which requests
    were not answered in full, and why.
    """

    figures: dict[str, float]
    gaps: list[float] = []
    complaints: list[str] = []


@dataclass(frozen=True)
class Figure:
    """How a figure is shown."""

    label: str
    unit: str
    digits: int = 1


FIGURES: dict[str, Figure] = {
    "tokens": Figure("answers together", "tokens", 0),
    "throughput": Figure("throughput", "tokens/s", 0),
    "throughput_1": Figure("throughput, 1 row", "tokens/s", 0),
    "throughput_4": Figure("throughput, 4 rows", "tokens/s", 0),
    "throughput_one": Figure("the same load on one model", "tokens/s", 0),
    "ttft_p50": Figure("time to first token, p50", "ms"),
    "ttft_p99": Figure("time to first token, p99", "ms"),
    "gap_p50": Figure("pause between arrivals, p50", "ms"),
    "gap_p99": Figure("pause between arrivals, p99", "ms"),
    "cpu": Figure("CPU a token", "µs"),
    "cpu_front": Figure("CPU a token, front", "µs"),
    "cpu_child": Figure("CPU a token, child", "µs"),
    "resident": Figure("resident memory", "MB"),
    "resident_front": Figure("resident memory, front", "MB"),
    "resident_child": Figure("resident memory, child", "MB"),
    "newcomer_p50": Figure("late arrival's first token, p50", "ms"),
    "newcomer_p99": Figure("late arrival's first token, p99", "ms"),
    "before_p50": Figure("pause before the prompt, p50", "ms"),
    "before_p99": Figure("pause before the prompt, p99", "ms"),
    "before_max": Figure("pause before the prompt, longest", "ms"),
    "during_p50": Figure("pause during its prefill, p50", "ms"),
    "during_p99": Figure("pause during its prefill, p99", "ms"),
    "during_max": Figure("pause during its prefill, longest", "ms"),
    "after_p50": Figure("pause after it, p50", "ms"),
    "after_p99": Figure("pause after it, p99", "ms"),
    "after_max": Figure("pause after it, longest", "ms"),
    "prompt_tokens": Figure("prompt", "tokens", 0),
    "prompt_ttft": Figure("the prompt's own first token", "ms"),
    "cold": Figure("first token, prefix new", "ms"),
    "warm": Figure("first token, prefix seen", "ms"),
    "gain": Figure("new / seen", "times"),
    "cached_share": Figure("prompt tokens from the cache", "%"),
    "cached_share_min": Figure("the same, worst turn", "%"),
    "first_turn": Figure("first token, first turn", "ms"),
    "turn_p50": Figure("first token, later turns, p50", "ms"),
    "turn_max": Figure("first token, later turns, longest", "ms"),
    "idle_streamed": Figure("left to idle, streamed", "ms", 0),
    "idle_whole": Figure("left to idle, not streamed", "ms", 0),
    "health_p50": Figure("/health, p50", "ms", 2),
    "health_p99": Figure("/health, p99", "ms", 2),
    "health_bytes": Figure("/health, body", "bytes", 0),
    "resumed_p50": Figure("kill to next token, p50", "ms", 0),
    "resumed_max": Figure("kill to next token, longest", "ms", 0),
    "detect": Figure("kill to its detection", "ms", 1),
    "spawn": Figure("detection to a process with all imports", "ms", 1),
    "load": Figure("process to model loaded", "ms", 1),
    "child_ready": Figure("detection to model loaded", "ms", 1),
    "prefill": Figure("loaded to the first stream's next token", "ms", 1),
    "lost": Figure("streams lost", "", 0),
    "prompt_4000": Figure("shorter prompt", "tokens", 0),
    "cold_4000": Figure("first token, shorter prompt, new", "ms"),
    "restarted_4000": Figure("first token, shorter prompt, after a restart", "ms"),
    "memory_4000": Figure("first token, shorter prompt, once more", "ms"),
    "restarted_share_4000": Figure("shorter prompt, not read again after a restart", "%"),
    "gain_restarted_4000": Figure("shorter prompt, new / after a restart", "times"),
    "gain_memory_4000": Figure("shorter prompt, new / once more", "times"),
    "prompt_15000": Figure("longer prompt", "tokens", 0),
    "cold_15000": Figure("first token, longer prompt, new", "ms"),
    "restarted_15000": Figure("first token, longer prompt, after a restart", "ms"),
    "memory_15000": Figure("first token, longer prompt, once more", "ms"),
    "restarted_share_15000": Figure("longer prompt, not read again after a restart", "%"),
    "gain_restarted_15000": Figure("longer prompt, new / after a restart", "times"),
    "gain_memory_15000": Figure("longer prompt, new / once more", "times"),
    "alone_p50": Figure("pause of streams alone, p50", "ms"),
    "alone_p99": Figure("pause of streams alone, p99", "ms"),
    "written_p50": Figure("pause while new prompts are written, p50", "ms"),
    "written_p99": Figure("pause while new prompts are written, p99", "ms"),
    "unwritten_p50": Figure("pause beside new prompts not written, p50", "ms"),
    "unwritten_p99": Figure("pause beside new prompts not written, p99", "ms"),
    "read_p50": Figure("pause beside prompts after a restart, p50", "ms"),
    "read_p99": Figure("pause beside prompts after a restart, p99", "ms"),
    "found_p50": Figure("pause beside the same once more, p50", "ms"),
    "found_p99": Figure("pause beside the same once more, p99", "ms"),
    "written_ttft": Figure("first token, prompt that is written, p50", "ms"),
    "unwritten_ttft": Figure("first token, prompt that is not, p50", "ms"),
    "read_ttft": Figure("first token, prompt after a restart, p50", "ms"),
    "found_ttft": Figure("first token, the same once more, p50", "ms"),
    "listening": Figure("exec to listening", "ms", 0),
    "ready": Figure("exec to ready", "ms", 0),
}
