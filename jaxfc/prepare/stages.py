"""What each stage of the preparation does to one row, and the generated tasks that join after them."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping

from jaxfc.data.sources.rows import RawRow
from jaxfc.data.split import place
from jaxfc.data.tasks import SPLITS, generate
from jaxfc.data.validate import SPLIT_MIXED, Dropped, Kept, check_example
from jaxfc.prepare.settings import Generated, Prepare


@dataclasses.dataclass(frozen=True, slots=True)
class Task(Kept):
    """A generated task, which has its split already."""

    split: str


@dataclasses.dataclass(frozen=True, slots=True)
class Settled:
    """A row that stays, with its split."""

    kept: Kept
    split: str
    withdrawn: int
    """How many tools of the other split were taken off its offer."""


def stages(config: Prepare, *, judged: bool) -> list[str]:
    """The names of the stages that rows pass, in their order."""
    passed = {
        "read": True,
        "judge": judged,
        "AST": config.ast,
        "final judge": judged,
        "repeats": config.repeats is not None and bool(config.repeats.digests()),
        "overlap": config.overlap is not None,
        "split": config.held_out > 0 or config.tasks is not None,
        "write": True,
    }
    return [name for name, is_passed in passed.items() if is_passed]


def with_each(check: Callable[[RawRow], Kept | Dropped], rows: Iterable[RawRow | Dropped]) -> Iterator[Kept | Dropped]:
    """What the check makes of each row; what was dropped before is passed on."""
    return (row if isinstance(row, Dropped) else check(row) for row in rows)


def generated(tasks: Generated | None) -> Iterator[Task]:
    """The generated tasks, held to the same check as rows."""
    for split in SPLITS if tasks else ():
        for index in range(getattr(tasks, split)):
            example = generate(tasks.seed, split, index)
            check_example(example)
            yield Task(example, (), f"tasks/{split}/{index}", split)


def splits_of_tools(tasks: Generated | None) -> dict[str, str]:
    """The split of each tool that generated tasks offer, which rows follow; a tool of `train` stays there."""
    fixed: dict[str, str] = {}
    for task in generated(tasks):
        for tool in task.example.tools:
            fixed.setdefault(tool.name, task.split)
    return fixed


def settle(kept: Kept, fixed: Mapping[str, str], config: Prepare) -> Settled | Dropped:
    """Find the split of a row."""
    if isinstance(kept, Task):
        return Settled(kept, kept.split, 0)
    placed = place(kept.example, fixed, held_out=config.held_out, seed=config.seed)
    if placed is None:
        called = ", ".join(call.name for call in kept.example.accepted)
        return Dropped(kept.example.id, kept.example.source, SPLIT_MIXED, f"calls {called}", kept.where)
    return Settled(dataclasses.replace(kept, example=placed.example), placed.split, placed.withdrawn)


def finished(kept: Kept) -> Kept:
    """The row as it is written: its example says where it is from and what was mended."""
    return dataclasses.replace(kept, example=dataclasses.replace(kept.example, origin=kept.where, repairs=kept.repairs))
