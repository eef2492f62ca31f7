"""Seconds, spreads, ratios and memory of contestants that take turns in one process."""

import ctypes
import ctypes.util
import dataclasses
import gc
import importlib.metadata
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxfc.benchmarks.settings import Benchmark

WARM_UPS = 2
"""Runs that are not counted: the first compiles, and in some stacks the second does once more."""
PACKAGES = ("jaxfc", "jax", "jaxlib", "flax", "optax", "numpy")


class Lap(NamedTuple):
    """What one run took, in seconds."""

    wall: float
    cpu: float
    """Of all threads of this process."""


def timed(function: Callable, *arguments) -> tuple[Any, Lap]:
    """`function(*arguments)`, awaited, and what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(function(*arguments))
    return result, Lap(time.perf_counter() - wall, time.process_time() - cpu)


def alternate(contestants: Mapping[str, Callable[[int], Any]], runs: int) -> dict[str, list[Lap]]:
    """Warm each contestant up, then let them run in turn, A B A B, so that a slow minute meets all of them.

    Args:
        contestants: name -> `run(number)`, which has done its work when it returns or when what it returns is ready.
            One that works in another process returns the `Lap` that it measured there.
        runs: measured runs of each.

    Returns:
        The laps of each contestant, the `WARM_UPS` first.
    """
    laps: dict[str, list[Lap]] = {name: [] for name in contestants}
    for number in range(runs + WARM_UPS):
        for name, run in contestants.items():
            gc.collect()
            result, lap = timed(run, number)
            lap = result if isinstance(result, Lap) else lap
            laps[name].append(lap)
            print(
                f"run {number + 1} of {runs + WARM_UPS}: {name} {lap.wall:.2f} s, CPU {lap.cpu:.2f} s",
                file=sys.stderr,
                flush=True,
            )
    return laps


def spread(values: Sequence[float | int]) -> dict[str, float | int]:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def figures(laps: Sequence[Lap], **amounts: float | int) -> dict[str, Any]:
    """The figures of one contestant.

    Args:
        laps: its runs, the warm-ups first.
        amounts: what one run gets done, such as `tokens=4096`; each also gives `tokens_per_s` at the median.
    """
    walls = spread([lap.wall for lap in laps[WARM_UPS:]])
    rates = {f"{name}_per_s": amount / walls["median"] for name, amount in amounts.items()}
    cpu = spread([lap.cpu for lap in laps[WARM_UPS:]])
    return {"wall_s": walls, "cpu_s": cpu, "first_run_s": laps[0].wall} | amounts | rates


def ratios(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float | int]]:
    """Of each contestant but the first, its seconds over the first's: above 1, the first is the faster."""
    (_, first), *others = results.items()
    return {
        name: {
            "wall": other["wall_s"]["median"] / first["wall_s"]["median"],
            "cpu": other["cpu_s"]["median"] / first["cpu_s"]["median"],
            "wall_of_fastest": other["wall_s"]["min"] / first["wall_s"]["min"],
        }
        for name, other in others
    }


def report(settings: Benchmark, results: Mapping[str, Any], packages: Sequence[str] = (), **more) -> dict[str, Any]:
    """The object that a benchmark prints.

    Args:
        settings: of the benchmark.
        results: name of each contestant -> its figures; ours first.
        packages: those of the peers, whose versions are told too.
        more: further entries.
    """
    return {
        "benchmark": settings.name,
        "settings": dataclasses.asdict(settings),
        "versions": {package: importlib.metadata.version(package) for package in (*PACKAGES, *packages)},
        "machine": machine(),
        **more,
        "results": results,
        "ratios": ratios(results),
        "peak_rss_bytes": peak_rss(),
        "device_memory": [device.memory_stats() for device in jax.local_devices()],
    }


def machine() -> dict[str, Any]:
    """Where this runs."""
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "devices": len(devices),
        "device_kind": devices[0].device_kind,
        "platform": devices[0].platform,
    }


def peak_rss() -> int:
    """Most memory that this process has held, in bytes."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def rise(function: Callable[[], Any]) -> tuple[int, int]:
    """How far memory rises while `function` runs, and how high it stood before, in bytes.

    On an accelerator it is the first device's. On CPU it is the process's, and Linux only: the mark of the highest
    memory is set back first, and what the allocator keeps for later is returned.

    Raises:
        OSError: the system has no such mark.
    """
    gc.collect()
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        before = device.memory_stats()["bytes_in_use"]
        jax.block_until_ready(function())
        return device.memory_stats()["peak_bytes_in_use"] - before, before
    ctypes.CDLL(ctypes.util.find_library("c")).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    jax.block_until_ready(function())
    return _status("VmHWM") - before, before


def _status(field: str) -> int:
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)
