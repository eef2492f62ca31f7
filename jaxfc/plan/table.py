"""A plan, as tables for people and as one object for programs."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from jaxfc.config import TrainRL
from jaxfc.plan.budget import SHARE, Need, Planned, need, paces, resident, trained_tokens
from jaxfc.plan.compiled import CLASSES, Compiled
from jaxfc.plan.hlo import by_kind
from jaxfc.plan.topology import GIB


def summarize(plan: Planned, mean_length: int) -> dict[str, Any]:
    """All figures of a plan, per chip as JAX counts devices; bytes, FLOPs and seconds.

    Args:
        plan: what was compiled.
        mean_length: tokens of a completion, on average; what rollouts cost depends on it.
    """
    target, config = plan.target, plan.config
    pace = paces(plan, mean_length)
    programs = {}
    for name, program in plan.programs.items():
        needed = need(program, resident(plan, name), target.chip)
        programs[name] = _memory(program, needed) | _work(program, target.per_slice)
        programs[name] |= {"runs": pace[name].runs, "seconds": pace[name].seconds, "bound": pace[name].bound}
    step = sum(each.seconds for each in pace.values())
    rollout = sum(each.seconds for name, each in pace.items() if name.startswith("rollout"))
    summary = {
        "name": config.name,
        "topology": target.name,
        "slices": target.count,
        "chips": target.chips,
        "mesh": dict(plan.mesh.shape),
        "prompt_length": config.data.prompt_buckets[-1],
        "completion_length": config.data.completion_length,
        "mean_length": mean_length,
        "memory_limit": target.chip.memory,
        "fits": all(each["fits"] for each in programs.values()),
        "programs": programs,
        "step_seconds": step,
        "trained_tokens_per_s_per_chip": trained_tokens(config, mean_length) / step / target.chips if step else None,
    }
    if isinstance(config, TrainRL) and rollout:
        sampled = config.batch * config.algorithm.oversample * config.algorithm.group_size * mean_length
        summary["sampled_tokens_per_s_per_chip"] = sampled / rollout / target.chips
    return summary


def _memory(program: Compiled, needed: Need) -> dict[str, Any]:
    return {
        "memory": needed.classes,
        "total": needed.total,
        "fits": needed.fits,
        "refusal": program.refusal,
        "largest": list(program.largest),
        "compile_seconds": program.seconds,
    }


def _work(program: Compiled, per_slice: int) -> dict[str, Any]:
    sent = defaultdict(dict)
    for (kind, network), size in by_kind(program.work.collectives, per_slice).items():
        sent[network][kind] = size
    return {"flops": program.work.flops, "bytes": program.work.bytes, "collectives": dict(sent)}


def lines(summary: dict[str, Any], advice: Sequence[str], *, markdown: bool) -> Iterator[str]:
    """The tables of a plan, as aligned text or as Markdown."""
    slices = f"{summary['slices']} x " if summary["slices"] > 1 else ""
    mesh = " x ".join(f"{axis}={size}" for axis, size in summary["mesh"].items())
    bold = "**" if markdown else ""
    verdict = "fits" if summary["fits"] else "does not fit"
    yield (
        f"{bold}{summary['name']} on {slices}{summary['topology']}: {verdict}.{bold} {summary['chips']} chips, mesh "
        f"{mesh}; prompts of {summary['prompt_length']} tokens, room for {summary['completion_length']} more."
    )
    yield ""
    limit = summary["memory_limit"]
    yield f"GiB of HBM on a chip while each program runs; of its {limit / GIB:.2f}, {SHARE:.0%} may be planned with:"
    yield ""
    shown = [name for name in CLASSES if any(p["memory"][name] >= 0.005 * GIB for p in summary["programs"].values())]
    rows = [
        [
            name,
            *(f"{program['memory'][each] / GIB:.2f}" for each in shown),
            f"{program['total'] / GIB:.2f}",
            f"{program['total'] / limit:.0%}" + (" refused" if program["refusal"] else ""),
        ]
        for name, program in summary["programs"].items()
    ]
    yield from _table(["program", *shown, "total", "of the chip"], rows, markdown)
    yield ""
    yield "Work of a chip in one run, and the seconds of a step that it takes at least (a roofline; nothing was run):"
    yield ""
    titles = [
        "program",
        "TFLOP",
        "GB of HBM",
        "GB over ICI",
        "GB over DCN",
        "runs",
        "s a step",
        "bound by",
        "compile s",
    ]
    yield from _table(titles, [_work_row(name, p) for name, p in summary["programs"].items()], markdown)
    yield ""
    if summary["step_seconds"]:
        yield _closing(summary)
    for line in advice:
        yield ""
        yield line


def _work_row(name: str, program: dict[str, Any]) -> list[str]:
    sent = {network: sum(program["collectives"].get(network, {}).values()) for network in ("ICI", "DCN")}
    return [
        name,
        f"{program['flops'] / 1e12:.2f}",
        f"{program['bytes'] / 1e9:.1f}",
        f"{sent['ICI'] / 1e9:.2f}",
        f"{sent['DCN'] / 1e9:.2f}",
        f"{program['runs']:.0f}",
        f"{program['seconds']:.2f}",
        program["bound"],
        f"{program['compile_seconds']:.1f}",
    ]


def _closing(summary: dict[str, Any]) -> str:
    text = (
        f"A step takes at least {summary['step_seconds']:.0f} s with completions of {summary['mean_length']} tokens: "
        f"{summary['trained_tokens_per_s_per_chip']:,.0f} tokens trained on a second and chip"
    )
    if "sampled_tokens_per_s_per_chip" in summary:
        text += f", {summary['sampled_tokens_per_s_per_chip']:,.0f} sampled while it samples"
    kinds = defaultdict(float)
    for program in summary["programs"].values():
        for network, sent in program.get("collectives", {}).items():
            for kind, size in sent.items():
                kinds[f"{kind} over {network}"] += size * program["runs"] / 1e9
    listed = ", ".join(f"{kind} {size:,.1f} GB" for kind, size in sorted(kinds.items()))
    return f"{text}. A chip sends in a step: {listed or 'nothing'}."


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> Iterator[str]:
    widths = [max(len(row[at]) for row in [titles, *rows]) for at in range(len(titles))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return f"| {' | '.join(cells)} |" if markdown else "  ".join(cells).rstrip()

    yield line(titles)
    if markdown:
        yield "| " + " | ".join(["---", *["---:"] * (len(titles) - 1)]) + " |"
    for row in rows:
        yield line(row)
