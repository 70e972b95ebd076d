"""What callers see of a model that was unloaded."""

from tests.front.asking import Serve, model


async def test_a_node_whose_only_model_was_unloaded_serves_and_says_so(serve: Serve) -> None:
    front = await serve(models=(model(idle_timeout=0.05),))
    await front.reaches(state="stopped", status="offline", pid=None)
    assert (await front.ask("/v1/cluster/health")).status == 200
    assert (await front.ask("/health/ready")).status == 200
    assert (await front.ask("/health")).json["status"] == "healthy"
    assert (await front.ask("/v1/models")).json["data"][0]["id"] == "m"
