"""When a node that can serve no model ends."""

import pytest

from mlx_worker.errors import NothingServed
from mlx_worker.supervisor.outage import Outage, end_at_outage
from mlx_worker.supervisor.process.restart_policy import RestartPolicy
from mlx_worker.supervisor.process.states import State
from tests.supervisor_harness import planned, running, scripted, soon


def test_an_outage_counts_from_when_the_last_model_was_given_up() -> None:
    outage = Outage(limit=60.0)
    assert not outage.is_over_limit(0.0, all_given_up=False)
    assert not outage.is_over_limit(100.0, all_given_up=True)
    assert not outage.is_over_limit(159.0, all_given_up=True)
    assert outage.is_over_limit(160.0, all_given_up=True)


def test_a_model_that_comes_back_ends_the_outage() -> None:
    outage = Outage(limit=60.0)
    outage.is_over_limit(0.0, all_given_up=True)
    outage.is_over_limit(59.0, all_given_up=False)
    assert not outage.is_over_limit(61.0, all_given_up=True)


def test_a_pause_of_the_process_is_no_outage() -> None:
    outage = Outage(limit=60.0)
    outage.is_over_limit(100.0, all_given_up=True)
    assert not outage.is_over_limit(5000.0, all_given_up=True, resumed_at=5000.0)
    assert not outage.is_over_limit(5059.0, all_given_up=True, resumed_at=5000.0)
    assert outage.is_over_limit(5060.0, all_given_up=True, resumed_at=5000.0)


async def test_a_node_that_serves_nothing_ends_with_an_event_that_says_so() -> None:
    policy = RestartPolicy(intensity=0, retry_initial=3600)
    async with running(launcher=scripted("--cannot-load"), policy=policy) as node:
        await soon(node.primary.child.reached(State.FAILED))
        with pytest.raises(NothingServed, match="no model could be served for") as ended:
            await soon(end_at_outage(node, 0.01))
        assert ended.value.exit_code == 70
        (_, event) = node.events.after(0)[-1]
        assert event.kind == "outage"
        assert "so it was written" in event.facts["reasons"]["model"]


async def test_a_model_that_waits_for_its_first_request_is_no_outage() -> None:
    async with running(planned("a", preload=False), launcher=scripted()) as node:
        assert not node.all_given_up
