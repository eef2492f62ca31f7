"""What bfcl-eval's own client says to a model that says what is written.

Run in an environment that has its clients too: JSON lines {category, id, result} -> {result, messages}, in the same
order; `messages` are those of the last request.
"""

import contextlib
import copy
import json
import os
import sys
import types

from bfcl_eval.eval_checker.multi_turn_eval import multi_turn_utils
from bfcl_eval.model_handler.api_inference.openai_completion import OpenAICompletionsHandler
from bfcl_eval.model_handler.utils import default_decode_execute_prompting
from bfcl_eval.utils import load_dataset_entry


class Scripted(OpenAICompletionsHandler):
    """Where the script of a turn ends, it says that this is all."""

    def begin(self, turns):
        self.turns, self.turn, self.step, self.asked = turns, 0, 0, []

    def _query_prompting(self, inference_data):
        self.asked = copy.deepcopy(inference_data["message"])
        answers = self.turns[self.turn] if self.turn < len(self.turns) else []
        text = answers[self.step] if self.step < len(answers) else "That is all."
        calls = []
        with contextlib.suppress(Exception):
            calls = default_decode_execute_prompting(text)
        self.turn, self.step = (self.turn, self.step + 1) if calls else (self.turn + 1, 0)
        message = types.SimpleNamespace(content=text)
        usage = types.SimpleNamespace(prompt_tokens=0, completion_tokens=0)
        return types.SimpleNamespace(choices=[types.SimpleNamespace(message=message)], usage=usage), 0.0

    def _add_assistant_message_prompting(self, inference_data, model_response_data):
        inference_data["message"].append({"role": "assistant", "content": model_response_data["model_responses"]})
        return inference_data


def main():
    answers = sys.stdout
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
    entries = {}
    client = Scripted("model", temperature=0, registry_name="scripted", is_fc_model=False)
    for line in sys.stdin:
        row = json.loads(line)
        if row["category"] not in entries:
            entries[row["category"]] = {entry["id"]: entry for entry in load_dataset_entry(row["category"])}
        client.begin(row["result"])
        result, _ = client.inference(copy.deepcopy(entries[row["category"]][row["id"]]), False, True)
        # The package keeps the objects of every model and entry.
        for name in [name for name in vars(multi_turn_utils) if name.endswith("_instance")]:
            del vars(multi_turn_utils)[name]
        name = f"model_{row['id']}"
        messages = [{**message, "content": message["content"].replace(name, "model")} for message in client.asked]
        answers.write(json.dumps({"result": result, "messages": messages}) + "\n")


main()
