"""BFCL's verdict on a conversation: after each turn, the state of the simulated objects, and the calls' results."""

import collections
from collections.abc import Sequence

from jaxfc.bfcl.backend import Backend, EnvironmentFailure, Session
from jaxfc.bfcl.executable import executable_calls
from jaxfc.bfcl.multi_turn import Conversation
from jaxfc.calls.match import Verdict
from jaxfc.calls.parse import ParseError

INFERENCE_ERROR = "multi_turn:inference_error"
"""There is no transcript: the prompt became too long, for instance."""
FORCE_TERMINATED = "multi_turn:force_terminated"
"""The transcript ends before the last turn: the model did not stop to make calls."""
EMPTY_TURN = "multi_turn:empty_turn_model_response"
"""No calls in a turn whose reference has some."""
STATE_MISMATCH = "multi_turn:instance_state_mismatch"
"""After a turn, public attributes of the objects are not those of the reference's."""
RESPONSE_MISMATCH = "multi_turn:execution_response_mismatch"
"""The reference's results of a turn are not all among the results so far."""

Transcript = Sequence[Sequence[str]]
"""Of each turn, the answers of its steps."""


def calls_of(answer: str) -> list[str]:
    """The calls that an answer makes, as source; none where it is no list of calls, as prose is not."""
    try:
        return executable_calls(answer)
    except ParseError:
        return []


def judge_conversation(conversation: Conversation, transcript: Transcript, backend: Backend) -> Verdict:
    """Run the calls of a transcript, and the reference's beside them, and compare.

    Turn by turn: the model's calls are run, then the reference's. Where the reference has calls, the model must have
    some, all public attributes of the objects must be equal, and each of the reference's results must be among the
    model's, of this turn or an earlier one. A turn in which the reference calls nothing is not judged, but its calls
    count for what comes after.

    Args:
        conversation: with its reference.
        transcript: the model's answers; a turn that was not reached is left out.
        backend: where the calls are run.

    Returns:
        Its reason is BFCL's error type, or `environment: ...` where calls took too long, gave back too much, or ended
        the process that ran them, which BFCL does not guard against.
    """
    expected = len(conversation.reference)
    if len(transcript) != expected:
        return Verdict(False, FORCE_TERMINATED, f"{len(transcript)} of {expected} turns")
    try:
        with backend.open(conversation.scene) as session:
            turns = [[calls_of(answer) for answer in answers] for answers in transcript]
            return _judge_turns(conversation, turns, session)
    except EnvironmentFailure as failure:
        return Verdict(False, f"environment: {failure.reason}", failure.detail)


def _judge_turns(conversation: Conversation, turns: Sequence[Sequence[Sequence[str]]], session: Session) -> Verdict:
    so_far = collections.Counter()
    for number, (steps, reference) in enumerate(zip(turns, conversation.reference, strict=True)):
        calls = [call for step in steps for call in step]
        so_far.update(session.run("model", calls))
        wanted = collections.Counter(session.run("reference", reference))
        if not reference:
            continue
        if not calls:
            return Verdict(False, EMPTY_TURN, f"turn {number}: no calls")
        if differences := session.differences():
            return Verdict(False, STATE_MISMATCH, f"turn {number}: {', '.join(differences)}")
        if missing := wanted - so_far:
            return Verdict(False, RESPONSE_MISMATCH, f"turn {number}: no {next(iter(missing))[:200]}")
    return Verdict(True, "ok", "")
