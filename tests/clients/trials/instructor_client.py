from configured import MODEL, client, openai
from trial import PERSON, SAYS_PERSON, TEXT, calls, run
import instructor
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


def user(text):
    return [{"role": "user", "content": text}]


def text():
    said = client.create(model=MODEL, messages=user(TEXT), response_model=None)
    return said.choices[0].message.content


def stream():
    """Return the last of a stream of ever fuller objects."""
    parts = client.create_partial(response_model=Person, model=MODEL, messages=user(SAYS_PERSON))
    return [it.model_dump() for it in parts][-1]


def tool():
    """Have the object come as a call's arguments."""
    by_tool = instructor.from_openai(openai, mode=instructor.Mode.TOOLS)
    said = by_tool.create(
        response_model=Person, model=MODEL, messages=user(calls("Person", PERSON))
    )
    return said.model_dump()


def structured():
    said = client.create(response_model=Person, model=MODEL, messages=user(SAYS_PERSON))
    return said.model_dump()


run(text=text, stream=stream, tool=tool, structured=structured)
