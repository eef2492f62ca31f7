"""bfcl-eval's own verdicts on transcripts, and its results of their calls.

Run in its environment: JSON lines {category, id, result} -> {reason, results}, in the same order.
"""

import contextlib
import copy
import json
import os
import sys
import types

# The registry of models imports the clients of all vendors, and nothing here asks it.
registry = types.ModuleType("bfcl_eval.constants.model_config")
registry.MODEL_CONFIG_MAPPING = {}
sys.modules[registry.__name__] = registry

from bfcl_eval.eval_checker.multi_turn_eval import multi_turn_checker, multi_turn_utils  # noqa: E402
from bfcl_eval.model_handler.utils import default_decode_execute_prompting  # noqa: E402
from bfcl_eval.utils import load_dataset_entry, load_ground_truth_entry  # noqa: E402


def decoded(answers):
    """As the package's runner does: what does not decode, or has no calls, is left out."""
    steps = []
    for answer in answers:
        with contextlib.suppress(Exception):
            steps.append(default_decode_execute_prompting(answer))
    return [calls for calls in steps if not multi_turn_utils.is_empty_execute_response(calls)]


def verdict(number, entry, reference, result):
    if len(result) != len(reference):
        return "multi_turn:force_terminated"
    found = multi_turn_checker.multi_turn_checker(
        [decoded(answers) for answers in result], reference, entry, "", f"model{number}"
    )
    return "ok" if found["valid"] else found["error_type"]


def results(number, entry, result):
    """The texts that all calls of the transcript give back, as generation runs them."""
    calls = [call for answers in result for step in decoded(answers) for call in step]
    texts, _ = multi_turn_utils.execute_multi_turn_func_call(
        calls,
        entry["initial_config"],
        entry["involved_classes"],
        f"model{number}",
        entry["id"],
        long_context="long_context" in entry["id"],
    )
    return [text.replace(f"model{number}_{entry['id']}", "model") for text in texts]


def main():
    entries, references = {}, {}
    answers = sys.stdout
    sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    for number, line in enumerate(sys.stdin):
        row = json.loads(line)
        category = row["category"]
        if category not in entries:
            entries[category] = {entry["id"]: entry for entry in load_dataset_entry(category)}
            references[category] = {entry["id"]: entry["ground_truth"] for entry in load_ground_truth_entry(category)}
        entry = copy.deepcopy(entries[category][row["id"]])
        try:
            reason = verdict(number, entry, references[category][row["id"]], row["result"])
        except Exception as error:
            reason = f"exception: {type(error).__name__}: {error}"
        given_back = results(number, entry, row["result"])
        # The package keeps the objects of every model and entry.
        for name in [name for name in vars(multi_turn_utils) if name.endswith("_instance")]:
            del vars(multi_turn_utils)[name]
        answers.write(json.dumps({"reason": reason, "results": given_back}) + "\n")


main()
