"""Tools that evaluate models or measure servers: each runs a task made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.clients.talk import ROW
from tests.clients.trials.trial import LOOK, SENTENCE, TEXT

if TYPE_CHECKING:
    from tests.clients.conftest import Seats
    from tests.clients.table import Table

pytestmark = pytest.mark.clients


def test_inspect_has_text_and_tools(seat_of: Seats, table: Table) -> None:
    seat = seat_of("inspect-ai")
    table.begin("inspect-ai", "text", "tool")
    samples = [
        {"input": TEXT, "target": SENTENCE},
        {"input": LOOK, "target": "The tool said: the river is wide"},
    ]
    seat.place("work/samples.json", json.dumps(samples))
    seat.place("work/trial.py", _script("trial.py"))
    seat.place("work/task.py", _script("inspect_task.py"))
    display = ("--display", "plain", "--log-format", "json", "--log-dir", "logs")
    ran = seat.shell("task.py", *display)
    (log,) = (seat.work / "logs").glob("*.json")
    scored = json.loads(log.read_text())
    assert scored["status"] == "success", ran.whole
    scores = [sample["scores"]["exact"]["value"] for sample in scored["samples"]]
    for kind, score in zip(("text", "tool"), scores, strict=True):
        assert score == "C", scored["samples"]
        table.seen("inspect-ai", kind)


GENERATE: Final = """
task: generate
dataset_path: json
dataset_kwargs: {data_files: {test: data.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: [" four"], max_gen_toks: 16}
metric_list: [{metric: exact_match}]
"""
CHOOSE: Final = """
task: choose
dataset_path: json
dataset_kwargs: {data_files: {test: data.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: label
metric_list: [{metric: acc}]
"""


def test_lm_eval_generates_and_scores_choices(seat_of: Seats, table: Table) -> None:
    """Choices are scored by log-likelihoods: the table's "structured"."""
    seat = seat_of("lm-eval")
    table.begin("lm-eval", "text", "structured")
    one = {
        "question": "Once",
        "answer": "".join(ROW[:3]),
        # To the model all tokens of a prompt are alike: the fewer, the likelier.
        "choices": ["".join(ROW[:1]), "zebra"],
        "label": 0,
    }
    seat.place("work/data.jsonl", json.dumps(one) + "\n")
    seat.place("work/tasks/generate.yaml", GENERATE)
    seat.place("work/tasks/choose.yaml", CHOOSE)
    for kind, task, metric in (
        ("text", "generate", "exact_match,none"),
        ("structured", "choose", "acc,none"),
    ):
        out = ("--output_path", f"out-{task}")
        ran = seat.shell("--include_path", "tasks", "--tasks", task, *out)
        found = list((seat.work / f"out-{task}").rglob("results*.json"))
        assert found, ran.whole
        assert json.loads(found[0].read_text())["results"][task][metric] == 1.0, ran.whole
        table.seen("lm-eval", kind)


def test_guidellm_measures_as_many_tokens_as_were_asked_for(seat_of: Seats, table: Table) -> None:
    seat = seat_of("guidellm")
    table.begin("guidellm", "text", "stream")
    length = 16
    out = seat.work / "out.json"
    options = (
        ("--data", f"kind=synthetic_text,prompt_tokens=64,output_tokens={length}"),
        ("--profile", "kind=synchronous"),
        ("--constraint", "kind=max_requests,count=3"),
        ("--output", f"kind=json,path={out}"),
    )
    ran = seat.shell(*(word for pair in options for word in pair), "--disable-console")
    assert out.exists(), ran.whole
    (benchmark,) = json.loads(out.read_text())["benchmarks"]
    requests = benchmark["requests"]
    assert len(requests["successful"]) == 3, ran.whole
    assert not requests["errored"]
    told = [one["output_tokens"] for one in requests["successful"]]
    assert told == [length] * 3
    table.seen("guidellm", "text")
    table.seen("guidellm", "stream")


def _script(name: str) -> str:
    return (Path(__file__).parent / "trials" / name).read_text()
