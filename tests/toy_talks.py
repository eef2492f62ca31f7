"""Conversations about the shop and the lamp of `toy_apis`."""

from pathlib import Path

from toy_apis import TOY_CLASSES

from jaxfc.bfcl.backend import Backend, Scene
from jaxfc.bfcl.multi_turn import Conversation

SCENE = Scene(("Shop", "Lamp"), {"Shop": {"money": 20}}, long_context=False)


def doc(name, **types):
    properties = {parameter: {"type": kind, "description": ""} for parameter, kind in types.items()}
    parameters = {"type": "dict", "properties": properties, "required": list(types)}
    return {"name": name, "description": f"To {name}.", "parameters": parameters}


FUNCTIONS = (doc("put", item="string"), doc("pay"), doc("read"), doc("blink", seconds="float"), doc("burn"))


def conversation(name="toy_0", reference=(("put(item='fig')",), ("pay()", "read()")), **changed):
    """One turn for each of the reference's; a turn that has held-back functions says nothing itself."""
    held_back = changed.get("held_back", {})
    said = [() if n in held_back else ({"role": "user", "content": f"Do {n}."},) for n in range(len(reference))]
    fields = {"category": "toy", "turns": tuple(said), "functions": FUNCTIONS, "held_back": {}, "scene": SCENE}
    return Conversation(id=name, reference=tuple(map(tuple, reference)), **fields | changed)


def toy_backend(**changed):
    return Backend(classes=TOY_CLASSES, path=[Path(__file__).parent], **changed)


class Scripted:
    """Generates what a script says: for each conversation's id, its answers one after another; in the end prose."""

    def __init__(self, script, stop_at=None):
        self.script = {name: iter(answers) for name, answers in script.items()}
        self.asked, self.stop_at = [], stop_at
        """The examples of each round."""

    def __call__(self, examples):
        self.asked.append(list(examples))
        if len(self.asked) == self.stop_at:
            raise KeyboardInterrupt
        answers = [next(self.script[example.id], "Done.") for example in examples]
        return [answer and f"<think>Hm.</think>{answer}" for answer in answers]


def answer_of(text):
    return text.split("</think>")[-1]
