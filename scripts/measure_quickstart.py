#!/usr/bin/env python3
"""Measure the quickstart over seeds, with its control, into configs/quickstart.results.json and the README's table.

Run scripts/quickstart.sh first; it makes the environment and the data. Each run takes a few minutes on two cores.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from jaxfc.files import write_atomically

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "configs" / "quickstart.results.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
KINDS = ("overall", "single", "choice", "several", "none")


def run(name: str, *settings: str) -> dict:
    """One run of the quickstart's config; its summary. A run that is finished is not run again."""
    summary = ROOT / "runs" / name / "summary.json"
    if not summary.is_file():
        command = [sys.executable, "scripts/train_rl.py", "--config", "configs/quickstart.yaml", f"name={name}"]
        # Every run compiles, as the first on a machine does.
        subprocess.run([*command, "compile_cache=null", *settings], cwd=ROOT, check=True)
    return json.loads(summary.read_text())


def summarize(runs: list[dict]) -> dict:
    """Means over runs, and the spread of the gain."""
    gains = [run["eval/after/overall"] - run["eval/before/overall"] for run in runs]
    means = {name: statistics.fmean(run[name] for run in runs) for name in runs[0] if name in runs[-1]}
    return {"runs": len(runs), "gains": gains, "gain": statistics.fmean(gains), "mean": means}


def table(results: dict) -> str:
    """The README's figures, as Markdown."""
    egpo, control = results["egpo"], results["shuffled"]
    rows = ["| held-out tasks | before | after EGPO | after shuffled rewards |", "| --- | --- | --- | --- |"]
    for kind in KINDS:
        before, after = (egpo["mean"][f"eval/{when}/{kind}"] for when in ("before", "after"))
        rows.append(f"| {kind} | {before:.3f} | {after:.3f} | {control['mean'][f'eval/after/{kind}']:.3f} |")
    mean = egpo["mean"]
    gains = ", ".join(f"{gain:+.3f}" for gain in egpo["gains"])
    phases = ("compile", "evaluate", "rollout", "reward", "score", "update")
    seconds = ", ".join(f"{phase} {mean[f'seconds/{phase}']:.0f} s" for phase in phases)
    head = (
        f"Greedy exact accuracy of the quickstart on 400 tasks whose tools and values training never shows, mean of "
        f"{egpo['runs']} seeds (gains {gains}). The control, {control['runs']} run, deals the same rewards out at "
        "random. Made by `scripts/measure_quickstart.py`."
    )
    foot = (
        f"`reward/mean` {mean['reward/mean/first']:.2f} in the first step, {mean['reward/mean/last']:.2f} in the last; "
        f"{mean['steps']:.0f} steps; {mean['cpu_seconds']:.0f} CPU seconds on 2 cores ({seconds} of wall time); peak "
        f"memory {mean['memory/peak_rss_gib']:.2f} GiB; {mean['speed/compiles']:.0f} programs compiled after the first "
        "step."
    )
    return "\n".join([head, "", *rows, "", foot])


def main():
    """Run what is missing, then write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    egpo = [run(f"quickstart-seed-{seed}", f"seed={seed}") for seed in seeds]
    control = [run(f"quickstart-shuffled-{seeds[0]}", f"seed={seeds[0]}", "reward.shuffled=true")]
    results = {"egpo": summarize(egpo), "shuffled": summarize(control)}
    write_atomically(RESULTS, json.dumps(results, indent=2) + "\n")
    text = README.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    write_atomically(README, f"{before}{BEGIN}\n{table(results)}\n{END}{after}")


if __name__ == "__main__":
    main()
