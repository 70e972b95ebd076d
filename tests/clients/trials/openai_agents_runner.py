from configured import model
from trial import LOOK, SAYS_PERSON, TEXT, look, run
from agents import Agent, Runner, WebSearchTool, function_tool
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


def agent(**more):
    return Agent(name="trial", model=model, **more)


async def text():
    return (await Runner.run(agent(), TEXT)).final_output


async def stream():
    streamed = Runner.run_streamed(agent(), TEXT)
    return [
        event.data.delta
        async for event in streamed.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]


async def tool():
    return (await Runner.run(agent(tools=[function_tool(look)]), LOOK)).final_output


async def structured():
    return (await Runner.run(agent(output_type=Person), SAYS_PERSON)).final_output.model_dump()


async def hosted_tool():
    tools = [WebSearchTool(), function_tool(look)]
    return (await Runner.run(agent(tools=tools), LOOK)).final_output


run(text=text, stream=stream, tool=tool, structured=structured, hosted_tool=hosted_tool)
