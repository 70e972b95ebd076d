"""The process in which costly grammars are tried: `python -m mlx_worker.grammar_trial.helper`.

Reads one JSON line with the vocabulary, then a line for each trial, and writes a line for each
verdict. The process ends with its pipe. A trial that takes more than its processor time ends the
process: the interval timer's signal needs no cooperation of the running code. This is a program,
which no module imports: an import lowers the priority of the process. [child's helper]
"""

from __future__ import annotations

import signal
import sys

from mlx_worker.system.priority import lower_priority

# Before the imports below, which are half a second's work of a processor.
lower_priority()

import msgspec  # noqa: E402
from llguidance import LLTokenizer  # noqa: E402

from mlx_worker.grammar_trial.trial import Trial, Verdict, Vocabulary, try_grammars  # noqa: E402


def main() -> None:
    """Answer trials until the pipe is closed."""
    requests, verdicts = sys.stdin.buffer, sys.stdout.buffer
    first = requests.readline()
    if not first:
        return
    known = msgspec.json.decode(first, type=Vocabulary)
    vocabulary = LLTokenizer(known.tokenizer, eos_token=known.ends)
    for line in iter(requests.readline, b""):
        trial = msgspec.json.decode(line, type=Trial)
        signal.setitimer(signal.ITIMER_PROF, known.seconds)
        try:
            verdict = try_grammars(vocabulary, trial)
        except BaseException as error:  # noqa: BLE001  (a panic of Rust's is no Exception)
            verdict = Verdict(f"{type(error).__name__}: {error}")
        signal.setitimer(signal.ITIMER_PROF, 0)
        verdicts.write(msgspec.json.encode(verdict) + b"\n")
        verdicts.flush()


if __name__ == "__main__":
    main()
