"""BFCL's multi-turn entries: conversations about simulated objects."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxfc.bfcl.backend import BFCL_CLASSES, Scene
from jaxfc.bfcl.categories import MULTI_TURN
from jaxfc.bfcl.files import find_file, rows_of, tools_of
from jaxfc.calls.schema import Tool
from jaxfc.command import InputError

DOCS = {
    "GorillaFileSystem": "gorilla_file_system.json",
    "MathAPI": "math_api.json",
    "MessageAPI": "message_api.json",
    "TicketAPI": "ticket_api.json",
    "TradingBot": "trading_bot.json",
    "TravelAPI": "travel_booking.json",
    "TwitterAPI": "posting_api.json",
    "VehicleControlAPI": "vehicle_control.json",
}
"""Simulated API -> the file of `multi_turn_func_doc` that describes its functions."""


@dataclasses.dataclass(frozen=True, slots=True)
class Conversation:
    """What a user says, turn by turn, to a model that acts on simulated objects."""

    id: str
    category: str
    turns: tuple[tuple[Mapping[str, Any], ...], ...]
    """The messages of each turn, of the first at least one. A turn without any has held-back functions."""
    functions: tuple[Mapping[str, Any], ...]
    """Docs of the functions on offer from the first turn on, as their files have them."""
    held_back: Mapping[int, tuple[Mapping[str, Any], ...]]
    """Turn -> the docs that it adds."""
    scene: Scene
    reference: tuple[tuple[str, ...], ...]
    """The calls of each turn, as source. A turn without any is one in which the request cannot be met."""

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The functions on offer from the first turn on."""
        return tools_of(self.id, list(self.functions))


def read_multi_turn(folder: Path, categories: Sequence[str] = MULTI_TURN) -> list[Conversation]:
    """Read the entries of BFCL's multi-turn categories, one after another.

    Args:
        folder: the data folder of bfcl-eval: `BFCL_v4_<category>.json`, `possible_answer/` and `multi_turn_func_doc/`.
        categories: of `MULTI_TURN`.

    Raises:
        InputError: a file that is missing, or a line that is not BFCL's.
    """
    docs = {name: _read_docs(folder / "multi_turn_func_doc" / file) for name, file in DOCS.items()}
    return [entry for category in categories for entry in _read_category(folder, category, docs)]


def _read_docs(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path}: not there; multi-turn entries need the whole data folder of bfcl-eval.")
    return [doc for _, doc in rows_of(path)]


def _read_category(folder: Path, category: str, docs: Mapping[str, list[dict[str, Any]]]) -> Iterator[Conversation]:
    questions = list(rows_of(find_file(folder, category)))
    answers = list(rows_of(find_file(folder / "possible_answer", category)))
    if [row.get("id") for _, row in questions] != [row.get("id") for _, row in answers]:
        raise InputError(f"{folder}: the questions and the answers of {category} are not those of the same ids.")
    for (where, question), (answer_where, answer) in zip(questions, answers, strict=True):
        match question, answer:
            case (
                {"id": str(name), "question": [*turns], "initial_config": dict(config), "involved_classes": [*classes]},
                {"ground_truth": [*reference]},
            ) if len(turns) == len(reference) and turns and turns[0]:
                pass
            case _:
                raise InputError(
                    f"{where}: neither this nor its answer, {answer_where}, is a multi-turn entry of BFCL."
                )
        unknown = [name for name in classes if name not in docs]
        if unknown:
            raise InputError(f"{where}: unknown simulated API {unknown[0]!r}; known are: {', '.join(BFCL_CLASSES)}.")
        offered = [doc for name in classes for doc in docs[name]]
        functions, held_back = _split(where, offered, question.get("missed_function", {}))
        yield Conversation(
            id=name,
            category=category,
            turns=tuple(map(tuple, turns)),
            functions=functions,
            held_back=held_back,
            scene=Scene(tuple(classes), config, long_context="long_context" in category),
            reference=tuple(map(tuple, reference)),
        )


def _split(where: str, docs: Sequence[dict[str, Any]], missed: Mapping[str, Sequence[str]]):
    """The docs that are offered at once, and those that a turn adds."""
    by_name = {doc["name"]: doc for doc in docs}
    later = {name for names in missed.values() for name in names}
    if not later <= set(by_name):
        raise InputError(f"{where}: holds back {sorted(later - set(by_name))}, which its APIs do not have.")
    now = tuple(doc for doc in docs if doc["name"] not in later)
    return now, {int(turn): tuple(by_name[name] for name in names) for turn, names in missed.items()}
