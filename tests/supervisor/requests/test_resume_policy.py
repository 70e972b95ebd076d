"""Who goes back to a child after a crash, beside whom, and who not at all."""

from dataclasses import dataclass

import pytest

from mlx_worker.supervisor.requests.resume_policy import ResumePolicy, is_poison, next_to_resume


@dataclass(eq=False)
class Request:
    name: str
    crashes: int = 0


THREE = ResumePolicy(max_crashes=3)


def names(waiting: list[Request], running: list[Request], policy: ResumePolicy = THREE) -> str:
    return "".join(request.name for request in next_to_resume(waiting, running, policy))


def test_all_that_wait_start_together_in_their_order() -> None:
    assert names([Request("a"), Request("b"), Request("c")], [Request("d")]) == "abc"


def test_after_one_crash_all_go_back_together() -> None:
    assert names([Request("a", 1), Request("b", 1), Request("c")], []) == "abc"


def test_after_two_crashes_they_go_back_one_at_a_time_before_all_others() -> None:
    assert names([Request("n"), Request("a", 2), Request("b", 2), Request("c", 1)], []) == "a"


def test_nothing_starts_beside_one_that_must_be_alone() -> None:
    assert names([Request("n"), Request("b", 2)], [Request("a", 2)]) == ""


def test_one_that_must_be_alone_waits_for_what_runs_and_nothing_overtakes_it() -> None:
    assert names([Request("n"), Request("a", 2)], [Request("x")]) == ""


@pytest.mark.parametrize(
    ("max_crashes", "together", "apart"), [(1, 0, None), (2, 0, 1), (3, 1, 2), (10, 1, 2)]
)
def test_the_last_crash_that_is_forgiven_is_never_met_in_company(
    max_crashes: int, together: int, apart: int | None
) -> None:
    policy = ResumePolicy(max_crashes=max_crashes)
    pair = [Request("a", together), Request("b", together)]
    assert names(pair, [], policy) == "ab"
    if apart is not None:
        assert names([Request("a", apart), Request("b", apart)], [], policy) == "a"


@pytest.mark.parametrize("max_crashes", [1, 2, 3, 10])
def test_a_request_is_poison_at_the_last_crash_and_not_before(max_crashes: int) -> None:
    policy = ResumePolicy(max_crashes=max_crashes)
    verdicts = [is_poison(Request("a", crashes), policy) for crashes in range(max_crashes + 1)]
    assert verdicts == [False] * max_crashes + [True]


@pytest.mark.parametrize("poisons", [1, 2, 3])
@pytest.mark.parametrize("innocents", [0, 1, 7])
def test_of_a_batch_with_poison_in_it_the_poison_is_refused_and_the_rest_finishes(
    poisons: int, innocents: int
) -> None:
    """The whole story, with a child that dies whenever poison runs in it."""
    waiting = [Request("innocent") for _ in range(innocents)]
    waiting += [Request("poison") for _ in range(poisons)]
    running: list[Request] = []
    finished: list[str] = []
    refused: list[str] = []
    crashes = 0
    while waiting or running:
        for request in list(next_to_resume(waiting, running, THREE)):
            waiting.remove(request)
            running.append(request)
        if all(request.name == "innocent" for request in running):
            finished.append(running.pop(0).name)
            continue
        crashes += 1
        for request in running:
            request.crashes += 1
            if is_poison(request, THREE):
                refused.append(request.name)
            else:
                waiting.append(request)
        running.clear()
    assert finished == ["innocent"] * innocents
    assert refused == ["poison"] * poisons
    assert crashes == 2 + poisons
