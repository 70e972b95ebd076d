from configured import model
from trial import LOOK, PERSON, SAYS_PERSON, TEXT, calls, look, run
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput


class Person(BaseModel):
    name: str
    age: int


async def text():
    return (await Agent(model).run(TEXT)).output


async def stream():
    async with Agent(model).run_stream(TEXT) as answer:
        return [it async for it in answer.stream_text(delta=True, debounce_by=None)]


async def tool():
    return (await Agent(model, tools=[look]).run(LOOK)).output


async def structured():
    agent = Agent(model, output_type=NativeOutput(Person))
    return (await agent.run(SAYS_PERSON)).output.model_dump()


async def structured_by_tool():
    agent = Agent(model, output_type=Person)
    return (await agent.run(calls("final_result", PERSON))).output.model_dump()


run(
    text=text,
    stream=stream,
    tool=tool,
    structured=structured,
    structured_by_tool=structured_by_tool,
)
