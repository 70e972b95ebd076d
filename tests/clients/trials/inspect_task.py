from inspect_ai import Task, task
from inspect_ai.dataset import json_dataset
from inspect_ai.scorer import exact
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import tool


@tool
def look():
    async def execute(at: str):
        """Look there.

        Args:
            at: The place.
        """
        return f"{at} is wide"

    return execute


@task
def trial():
    return Task(
        dataset=json_dataset("samples.json"),
        solver=[use_tools(look()), generate()],
        scorer=exact(),
    )
