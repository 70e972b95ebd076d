from configured import model
from trial import LOOK, SAYS_PERSON, TEXT, look, run
from langchain.agents import create_agent
from langchain_core.tools import tool as as_tool
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


def text():
    return model.invoke(TEXT).text


def stream():
    return [it.text for it in model.stream(TEXT) if it.text]


def tool():
    agent = create_agent(model, [as_tool(look)])
    return agent.invoke({"messages": [("user", LOOK)]})["messages"][-1].text


def structured():
    shaped = model.with_structured_output(Person, method="json_schema")
    return shaped.invoke(SAYS_PERSON).model_dump()


run(text=text, stream=stream, tool=tool, structured=structured)
