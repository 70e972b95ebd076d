"""What all trials in Python share: run each kind of turn, print what came of it as JSON.

A trial is run by the Python of its client's own environment, in a folder of its own, beside
`configured.py`: the client's block as `mlx-worker client-config` prints it.
"""

import asyncio
import inspect
import json
import sys
import traceback

PLACE = "the river"
PERSON = {"name": "Ada", "age": 36}
SENTENCE = " ".join(f"word {number}" for number in range(200))
TEXT = f"Please. [[say: {SENTENCE}]]"


def look(at: str) -> str:
    """Look there."""
    return f"{at} is wide"


def calls(name, arguments):
    """Ask for one call, and then for what the tool said."""
    return f"Please. [[call: {name} {json.dumps(arguments)}]] [[tell]]"


LOOK = calls("look", {"at": PLACE})
SAYS_PERSON = f"Please. [[say: {json.dumps(PERSON)}]]"


def run(**turns):
    """Run each turn and print a JSON object of what each returned, or of the error."""
    outcome = {}
    with asyncio.Runner() as loop:
        for kind, turn in turns.items():
            try:
                returned = turn()
                outcome[kind] = loop.run(returned) if inspect.iscoroutine(returned) else returned
            except Exception as error:
                traceback.print_exc()
                outcome[kind] = {"error": f"{type(error).__name__}: {error}"}
    sys.stdout.write("\n" + json.dumps(outcome) + "\n")
