"""The object that a benchmark prints, as a table for people."""

from collections.abc import Mapping
from typing import Any

CLOCKS = ("wall_s", "cpu_s")


def table(result: Mapping[str, Any]) -> str:
    """One line for each contestant's clocks, one for each other figure, and the ratios to the first."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    machine = result["machine"]
    lines = [
        f"{result['benchmark']}  on {machine['devices']} x {machine['device_kind']}, {machine['cores']} cores",
        versions,
        "",
        f"{'':24}{'median':>12}{'min':>12}{'max':>12}",
    ]
    for name, figures in result["results"].items():
        lines.append(name)
        for clock in CLOCKS:
            spread = figures[clock]
            lines.append(f"  {clock:22}" + "".join(f"{spread[each]:12.4f}" for each in ("median", "min", "max")))
        lines += _rest({key: value for key, value in figures.items() if key not in CLOCKS}, "  ")
    if result["ratios"]:
        lines += ["", f"over {next(iter(result['results']))}", *_rest(result["ratios"], "  ")]
    return "\n".join([*lines, "", f"{'peak_rss_bytes':24}{_figure(result['peak_rss_bytes'])}"])


def _rest(figures: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    for key, value in figures.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}", *_rest(value, indent + "  ")]
        else:
            lines.append(f"{indent + key:24}{_figure(value)}")
    return lines


def _figure(value: Any) -> str:
    if isinstance(value, float) and abs(value) < 1e6:
        return f"{value:12.4g}"
    return f"{value:12,.0f}" if isinstance(value, int | float) and not isinstance(value, bool) else f"  {value}"
