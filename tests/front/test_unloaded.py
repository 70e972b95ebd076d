"""What callers see of a model that was unloaded."""

from mlx_worker.supervisor.process.states import State
from tests.front.asking import Serve, model
from tests.supervisor_harness import eventually


async def test_a_node_whose_only_model_was_unloaded_serves_and_says_so(serve: Serve) -> None:
    front = await serve(models=(model(idle_timeout=0.05),), wait=False)
    child = front.node.models["m"].child

    async def has_served() -> bool:  # /health may be asked too seldom to see it ready
        return State.READY in child.entered_at

    await eventually(has_served)
    await front.reaches(state="stopped", status="offline", pid=None)
    assert (await front.ask("/v1/cluster/health")).status == 200
    assert (await front.ask("/health/ready")).status == 200
    assert (await front.ask("/health")).json["status"] == "healthy"
    assert (await front.ask("/v1/models")).json["data"][0]["id"] == "m"
