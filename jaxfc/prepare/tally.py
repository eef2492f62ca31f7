"""Tally: what became of the rows, in counters and a few examples of each; its size does not grow with their number."""

import bisect
import collections
from collections.abc import Iterable, Mapping
from typing import Any

from jaxfc.data.digests import Digests, digest_of
from jaxfc.data.example import Example
from jaxfc.data.overlap import KINDS, EvaluationRows, Hit
from jaxfc.data.repair import REPAIRS
from jaxfc.data.validate import REASONS, Dropped, Kept

EXAMPLES_NAMED = 2
"""How many rows are named for each reason, repair and kind of overlap: the first in the order of the input."""
SOURCES_NAMED = 1000
"""Sources or licences beyond so many are counted together."""
_OTHERS = "(others)"
_LONGEST = 300


class Noted:
    """A count, and its first examples."""

    def __init__(self):
        self.rows = 0
        self.examples: list[tuple[Any, str]] = []

    def add(self, order: Any, text: str):
        """Count a row, which is `order`-th in the input."""
        self.rows += 1
        self._name([(order, text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}...")])

    def merge(self, other: "Noted"):
        """Count the rows of another tally too."""
        self.rows += other.rows
        self._name(other.examples)

    def _name(self, examples: Iterable[tuple[Any, str]]):
        for example in examples:
            if len(self.examples) < EXAMPLES_NAMED or example < self.examples[-1]:
                bisect.insort(self.examples, example)
                del self.examples[EXAMPLES_NAMED:]

    def to_json(self, meaning: str) -> dict[str, Any]:
        """As report.json has it."""
        return {"rows": self.rows, "meaning": meaning, "examples": [text for _, text in self.examples]}


class _Split:
    """What is in a split."""

    def __init__(self):
        self.examples, self.offers_cut = 0, 0
        self.kinds: collections.Counter[str] = collections.Counter()
        self.licences: collections.Counter[str] = collections.Counter()
        self.tools = Digests()

    def add(self, example: Example, withdrawn: int):
        self.examples += 1
        self.offers_cut += withdrawn > 0
        self.kinds[example.kind] += 1
        self.licences[_capped(example.licence, self.licences)] += 1
        for tool in example.tools:
            self.tools.add(digest_of(tool.name))

    def merge(self, other: "_Split"):
        self.examples, self.offers_cut = self.examples + other.examples, self.offers_cut + other.offers_cut
        self.kinds.update(other.kinds)
        for licence, rows in other.licences.items():
            self.licences[_capped(licence, self.licences)] += rows
        for digest in other.tools:
            self.tools.add(digest)

    def to_json(self) -> dict[str, Any]:
        return {
            "examples": self.examples,
            "kinds": dict(sorted(self.kinds.items())),
            "licences": dict(sorted(self.licences.items())),
            "tools": len(self.tools),
            "offers_cut": self.offers_cut,
        }


class _Shared:
    """What training rows have in common with one evaluation file, in one way."""

    def __init__(self):
        self.noted, self.dropped = Noted(), 0
        self.evaluation_rows: set[int] = set()
        self.tools = Digests()

    def merge(self, other: "_Shared"):
        self.noted.merge(other.noted)
        self.dropped += other.dropped
        self.evaluation_rows |= other.evaluation_rows
        for digest in other.tools:
            self.tools.add(digest)

    def to_json(self, meaning: str) -> dict[str, Any]:
        found = self.noted.to_json(meaning) | {"dropped": self.dropped}
        return found | ({"tools": len(self.tools)} if self.tools else {"evaluation_rows": len(self.evaluation_rows)})


def _capped(name: str, names: Mapping[str, Any]) -> str:
    return name if name in names or len(names) < SOURCES_NAMED else _OTHERS


class Tally:
    """What became of the rows. Parts that are counted apart can be merged, in any order, with the same result."""

    def __init__(self, splits: Iterable[str] = ()):
        self._sources: dict[str, dict[str, collections.Counter[str]]] = {}
        self._reasons: dict[str, Noted] = {}
        self._repairs: dict[str, Noted] = {}
        self._splits: dict[str, _Split] = {split: _Split() for split in splits}
        self._shared: dict[tuple[int, str], _Shared] = {}

    def drop(self, order: Any, dropped: Dropped):
        """Count a row that was dropped; it is `order`-th in the input."""
        self._source(dropped.source)["dropped"][dropped.reason] += 1
        note = f"{dropped.id} ({dropped.where}): {dropped.detail}"
        self._reasons.setdefault(dropped.reason, Noted()).add(order, note)

    def keep(self, order: Any, kept: Kept, split: str, withdrawn: int):
        """Count a row that is in the dataset, some tools of another split maybe taken off its offer."""
        source = self._source(kept.example.source)
        source["rows"]["repaired" if kept.repairs else "kept"] += 1
        source["licences"][_capped(kept.example.licence, source["licences"])] += 1
        for repair in kept.repairs:
            self._repairs.setdefault(repair, Noted()).add(order, f"{kept.example.id} ({kept.where})")
        self._splits.setdefault(split, _Split()).add(kept.example, withdrawn)

    def _source(self, name: str) -> dict[str, collections.Counter[str]]:
        counters = {"rows": collections.Counter(), "dropped": collections.Counter(), "licences": collections.Counter()}
        return self._sources.setdefault(_capped(name, self._sources), counters)

    def share(self, order: Any, kept: Kept, hits: Iterable[Hit], reason: str):
        """Count what a row has in common with evaluation rows; `reason` is what it is dropped for, or empty."""
        for hit in hits:
            shared = self._shared.setdefault((hit.file, hit.kind), _Shared())
            shared.noted.add(order, f"{kept.example.id} ({kept.where}): {hit.shown}")
            shared.dropped += hit.kind == reason
            shared.evaluation_rows.update(hit.rows)
            for tool in hit.common if not hit.rows else ():
                shared.tools.add(digest_of(tool))

    def merge(self, other: "Tally"):
        """Count what another tally has counted too."""
        for name, counters in other._sources.items():
            ours = self._source(name)
            for key in ("rows", "dropped"):
                ours[key].update(counters[key])
            for licence, rows in counters["licences"].items():
                ours["licences"][_capped(licence, ours["licences"])] += rows
        for mine, its, empty in (
            (self._reasons, other._reasons, Noted),
            (self._repairs, other._repairs, Noted),
            (self._splits, other._splits, _Split),
            (self._shared, other._shared, _Shared),
        ):
            for key, value in its.items():
                mine.setdefault(key, empty()).merge(value)

    @property
    def rows(self) -> int:
        """All rows counted."""
        return self.kept + self.dropped

    @property
    def kept(self) -> int:
        """Rows that are in the dataset, as found or repaired."""
        return sum(split.examples for split in self._splits.values())

    @property
    def dropped(self) -> int:
        """Rows that are not."""
        return sum(noted.rows for noted in self._reasons.values())

    def most_common_reasons(self) -> str:
        """The three reasons for which most rows are dropped, for a message."""
        ordered = sorted(self._reasons.items(), key=lambda item: -item[1].rows)
        return "; ".join(f"{reason} ({noted.rows})" for reason, noted in ordered[:3]) or "there are none"

    def report(self, evaluation: EvaluationRows | None) -> dict[str, Any]:
        """The counts as report.json has them: each row is under exactly one of kept, repaired and dropped."""
        sources = {name: _source_to_json(counters) for name, counters in sorted(self._sources.items())}
        return {
            "kept": sum(counts["kept"] for counts in sources.values()),
            "repaired": sum(counts["repaired"] for counts in sources.values()),
            "dropped": self.dropped,
            "sources": sources,
            "reasons": {
                reason: self._reasons[reason].to_json(meaning)
                for reason, meaning in REASONS.items()
                if reason in self._reasons
            },
            "repairs": {
                repair: self._repairs[repair].to_json(meaning)
                for repair, meaning in REPAIRS.items()
                if repair in self._repairs
            },
            "overlap": [] if evaluation is None else self._overlap(evaluation),
            "splits": {name: split.to_json() for name, split in self._splits.items()},
        }

    def _overlap(self, evaluation: EvaluationRows) -> list[dict[str, Any]]:
        return [
            {
                "file": file,
                "rows": rows,
                "shared": {
                    kind: self._shared[number, kind].to_json(meaning)
                    for kind, meaning in KINDS.items()
                    if (number, kind) in self._shared
                },
            }
            for number, (file, rows) in enumerate(zip(evaluation.files, evaluation.counts, strict=True))
        ]


def _source_to_json(counters: Mapping[str, collections.Counter[str]]) -> dict[str, Any]:
    kept, repaired = counters["rows"]["kept"], counters["rows"]["repaired"]
    return {
        "rows": kept + repaired + counters["dropped"].total(),
        "kept": kept,
        "repaired": repaired,
        "dropped": dict(sorted(counters["dropped"].items())),
        "licences": dict(sorted(counters["licences"].items())),
    }
