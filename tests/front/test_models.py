"""The list of models, and which one a name means."""

import pytest

from tests.front.asking import Serve, model
from tests.supervisor_harness import Fifo

# --- the list -------------------------------------------------------------------------------


async def test_models_are_listed_with_their_aliases_loaded_or_not(serve: Serve, hold: Fifo) -> None:
    models = (model("m", aliases=("gpt-4o",)), model("other", preload=False, context_length=100))
    front = await serve("--hold-load", hold.path, models=models, wait=False)
    await front.reaches(state="loading")
    body = (await front.ask("/v1/models")).json
    assert body["object"] == "list"
    listed = {entry["id"]: entry for entry in body["data"]}
    assert list(listed) == ["m", "gpt-4o", "other"]
    for entry in listed.values():
        assert entry["object"] == "model"
        assert isinstance(entry["created"], int)
        assert entry["owned_by"]
        assert entry["max_model_len"] == entry["context_length"]
    assert listed["m"]["context_length"] == 8192  # from the folder: nothing is loaded yet
    assert listed["other"]["context_length"] == 100
    hold.let(1)
    await front.reaches(state="ready")
    shown = (await front.ask("/v1/models/gpt-4o")).json
    assert shown["context_length"] == shown["max_model_len"] == 4096


async def test_one_model_is_shown_by_its_name_also_one_with_slashes(serve: Serve) -> None:
    models = (model("mlx-community/some-4bit", default=True),)
    front = await serve(models=models)
    listed = (await front.ask("/v1/models")).json["data"][0]
    assert (await front.ask("/v1/models/mlx-community/some-4bit")).json == listed
    answer = await front.ask("/v1/models/gpt-4o")
    assert answer.status == 404
    assert answer.error["code"] == "model_not_found"


# --- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt-4o", "current-model", ""])
async def test_an_unknown_name_goes_to_the_default_model_where_there_is_one(
    serve: Serve, name: str
) -> None:
    front = await serve(models=(model("a"), model("b", default=True)))
    assert (await front.chat("hello", model=name)).status == 200
    assert (await front.model("b"))["metrics"]["totalRequests"] == 1


async def test_an_unknown_name_is_a_404_where_there_is_no_default(serve: Serve) -> None:
    front = await serve()
    answer = await front.chat("hello", model="gpt-4o")
    assert answer.status == 404
    assert (answer.error["code"], answer.error["param"]) == ("model_not_found", "model")
    assert (await front.chat("hello")).status == 200  # no name is no wrong name


async def test_an_alias_is_the_model(serve: Serve) -> None:
    front = await serve(models=(model("m", aliases=("gpt-4o",)),))
    assert (await front.chat("hello", model="gpt-4o")).text == "hello"
