from trial import LOOK, PERSON, SAYS_PERSON, TEXT, look, run
import json

import litellm
import yaml
from pydantic import BaseModel

litellm.telemetry = False
with open("config.yaml") as file:
    CONFIG = yaml.safe_load(file)
MODEL = CONFIG["model_list"][0]["model_name"]
router = litellm.Router(model_list=CONFIG["model_list"], num_retries=0)
TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look there.",
        "parameters": {
            "type": "object",
            "properties": {"at": {"type": "string"}},
            "required": ["at"],
        },
    },
}


class Person(BaseModel):
    name: str
    age: int


def user(text):
    return [{"role": "user", "content": text}]


def text():
    return router.completion(MODEL, user(TEXT)).choices[0].message.content


def stream():
    chunks = router.completion(MODEL, user(TEXT), stream=True)
    return [it.choices[0].delta.content for it in chunks if it.choices[0].delta.content]


def tool():
    messages = user(LOOK)
    said = router.completion(MODEL, messages, tools=[TOOL]).choices[0].message
    (call,) = said.tool_calls
    result = look(**json.loads(call.function.arguments))
    messages += [
        said.model_dump(),
        {"role": "tool", "tool_call_id": call.id, "content": result},
    ]
    return router.completion(MODEL, messages, tools=[TOOL]).choices[0].message.content


def structured():
    said = router.completion(MODEL, user(SAYS_PERSON), response_format=Person)
    return json.loads(said.choices[0].message.content)


def full_context():
    """Return the error that a prompt beyond the context ends with."""
    try:
        router.completion(MODEL, user("word " * 200_000))
    except litellm.ContextWindowExceededError as error:
        return type(error).__name__


run(text=text, stream=stream, tool=tool, structured=structured, full_context=full_context)
