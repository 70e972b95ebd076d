"""What the front tells of drafts: in /health, in the usage, and in the metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.fake_worker import NOT_DRAFTED
from tests.front.asking import model
from tests.supervisor_harness import eventually

if TYPE_CHECKING:
    from tests.front.asking import Serve

PREDICTION = {"type": "content", "content": "four words are predicted"}


async def test_health_has_the_measured_passes_and_why_nothing_is_drafted(serve: Serve) -> None:
    front = await serve(models=(model("m"), model("n", speculation="off")))
    passes = [{"rows": 1, "ms": [1.0, 1.5]}, {"rows": 4, "ms": [2.0]}]
    nothing = {"draftedTokens": 0, "acceptedTokens": 0, "draftModel": None}
    assert (await front.model("m"))["speculation"] == {"off": "", "passes": passes} | nothing
    assert (await front.model("n"))["speculation"]["off"] == NOT_DRAFTED


async def test_health_and_metrics_tell_what_the_draft_model_drafted(serve: Serve) -> None:
    front = await serve(models=(model("m", draft="nano"),))
    await front.chat("one two", prediction=PREDICTION)
    passes = [{"rows": 1, "ms": [1.0]}]
    expected = {"off": "", "passes": passes, "draftedTokens": 2, "acceptedTokens": 1}

    async def told() -> bool:
        return bool((await front.model())["speculation"]["draftModel"] == expected)

    await eventually(told)
    metrics = (await front.ask("/metrics")).body.decode()
    assert 'mlx_worker_draft_model_tokens_total{model="m"} 2.0' in metrics
    assert 'mlx_worker_accepted_draft_model_tokens_total{model="m"} 1.0' in metrics


async def test_usage_counts_tokens_of_the_prediction(serve: Serve) -> None:
    front = await serve()
    plain = await front.chat("one two")
    details = plain.json["usage"]["completion_tokens_details"]
    assert details["accepted_prediction_tokens"] == details["rejected_prediction_tokens"] == 0
    predicted = await front.chat("one two", prediction=PREDICTION, n=2)
    details = predicted.json["usage"]["completion_tokens_details"]
    assert details["accepted_prediction_tokens"] == 8
    assert details["rejected_prediction_tokens"] == 2
    assert predicted.json["choices"][0]["message"] == plain.json["choices"][0]["message"]


async def test_metrics_count_drafted_and_accepted_tokens(serve: Serve) -> None:
    front = await serve()
    await front.chat("one two", prediction=PREDICTION)

    async def counted() -> bool:
        metrics = (await front.ask("/metrics")).body.decode()
        return all(
            f'mlx_worker_{name}_total{{model="m"}} 4.0' in metrics
            for name in ("drafted_tokens", "accepted_draft_tokens")
        )

    await eventually(counted)
