"""Spans on the wire, where the last content travels apart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlx_worker.wire.output import (
    Done,
    InvalidToolCall,
    Notice,
    ReasoningText,
    RowOutput,
    Span,
    ToolCall,
)

spans_of_a_step = st.lists(
    st.one_of(
        st.sampled_from(["", "a", "b"]),
        st.just(ReasoningText("hm")),
        st.just(ToolCall("id", "look", "{}")),
        st.just(InvalidToolCall("{", "not a tool call")),
    ),
    max_size=5,
)


def merged(spans: list[Span]) -> list[Span]:
    """Return spans without empty content, neighbouring content as one span."""
    whole: list[Span] = []
    for span in spans:
        if isinstance(span, str) and whole and isinstance(last := whole[-1], str):
            whole[-1] = last + span
        elif span:
            whole.append(span)
    return whole


@given(spans_of_a_step)
def test_row_output_of_any_spans_has_the_same_spans(spans: list[Span]) -> None:
    row = RowOutput.of(1, [7], spans, [])
    assert merged(row.spans) == merged(spans)
    assert "" not in row.spans
    collected: list[Span] = ["before"]
    row.add_spans_to(collected)
    assert collected == ["before", *row.spans]


def test_row_output_of_one_content_has_no_list_of_spans() -> None:
    assert RowOutput.of(1, [7], ["a"], []) == RowOutput(1, [7], "a")


@given(spans_of_a_step, spans_of_a_step, spans_of_a_step)
def test_row_outputs_joined_have_the_spans_of_all(
    first: list[Span], second: list[Span], third: list[Span]
) -> None:
    outputs = [
        RowOutput.of(1, tokens, spans, [])
        for tokens, spans in (([7], first), ([8, 9], second), ([10], third))
    ]
    joined = RowOutput.joined(outputs)
    assert joined.tokens == [7, 8, 9, 10]
    assert merged(joined.spans) == merged([*first, *second, *third])


@given(spans_of_a_step)
def test_done_with_a_notice_has_the_notice_last(spans: list[Span]) -> None:
    done = Done.of(1, "stop", 3, spans, stop_string="x").with_notice("tools were left out")
    assert merged(done.spans) == [*merged(spans), Notice("tools were left out")]
    assert (done.finish, done.completion_tokens, done.stop_string) == ("stop", 3, "x")
