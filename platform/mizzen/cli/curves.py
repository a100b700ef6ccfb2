"""Curves of runs: a picture for the terminal with plotext, or a PNG file with matplotlib.

Without colours (a pipe, `NO_COLOR`) the runs are told apart by their letters. It chooses no runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mizzen.cli import output
from mizzen.cli.comparison import letters
from mizzen.cli.run_facts import RunFacts
from mizzen.errors import InputError
from mizzen.store.history import LOSS, VALIDATION, tag_of

WIDTH, HEIGHT = 100, 16
"""Columns and lines of a picture, at most."""
NARROWEST = 30
FINE = 50
"""Points of which a curve shows its course; twice as many are smoothed."""
COLOURS = (12, 10, 9, 14, 13, 11)
"""Of the runs, of the 16 that every terminal has; plotext's numbers."""
UNITS = {
    "time/": "seconds a step",
    "throughput/samples_per_second": "samples per second",
    "throughput/tokens_per_second": "tokens per second",
    "throughput/model_flops_utilisation": "share of the peak",
    "memory/bytes": "bytes",
}
"""What stands at the y axis; for anything else it is the curve's own name."""
PLAIN = str.maketrans("┌┐└┘├┤┬┴┼─│", "+++++++++-|")
Curves = Mapping[str, Sequence[Sequence[tuple[int, float]]]]
"""By tag, a curve for each run, empty where the run has none."""


def chosen(runs: Sequence[RunFacts], names: Sequence[str]) -> Curves:
    """The curves of the metrics that were asked for; by default of the loss and of the quality metric.

    Raises `InputError` that names the metrics that there are.
    """
    tags = sorted({tag for run in runs for tag in run.curves})
    wanted = []
    for name in names:
        tag = tag_of(name, tags)
        if tag is None:
            raise InputError(
                "none of the runs has measured this",
                saw=name,
                allowed=", ".join(tags) or "nothing: the runs have no history",
                field="--metric",
            )
        wanted.append(tag)
    if not names:
        qualities = [VALIDATION + run.quality.name for run in runs if run.quality]
        wanted = [tag for tag in dict.fromkeys([LOSS, *qualities]) if tag in tags]
    return {tag: [_finite(run.curves.get(tag, [])) for run in runs] for tag in dict.fromkeys(wanted)}


def _finite(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(step, value) for step, value in curve if math.isfinite(value)]


def smooth(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Means of points that are neighbours, where there are so many that noise would hide the curve."""
    half = len(curve) // FINE // 2
    values = [value for _, value in curve]
    around = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [(step, sum(near) / len(near)) for (step, _), near in zip(curve, around, strict=True)]


def show(curves: Curves) -> None:
    """Print each metric, smoothed, as a picture as wide as the terminal."""
    console = output.out
    colours = console.color_system is not None and not console.no_color
    unicode = console.encoding.startswith("utf")
    for tag, each in curves.items():
        if console.width < NARROWEST:
            output.say(f"the terminal is too narrow to draw {tag}; --plot FILE.png draws it")
            continue
        if not any(each):
            output.say(f"{tag} has no value that can be drawn: all are NaN or infinite")
            continue
        text = picture(
            tag,
            [smooth(curve) for curve in each],
            min(console.width, WIDTH),
            colours=colours,
            unicode=unicode,
        )
        print(f"\n{text}")


def picture(
    tag: str,
    curves: Sequence[Sequence[tuple[int, float]]],
    width: int,
    *,
    colours: bool,
    unicode: bool = True,
) -> str:
    """One metric of all runs, drawn with characters; `width` columns."""
    import plotext

    figure = plotext.figure
    figure.clear()
    plotext.terminal.limit(False, False)
    figure.theme("colorless").plot_size(width, HEIGHT)
    figure.title(tag).label("step", axis="x")
    figure.legend(False)
    steps = [step for curve in curves for step, _ in curve]
    if steps:
        figure.ruler("x").ticks(*_step_ticks(min(steps), max(steps), width))
    named = list(zip(letters(len(curves)), curves, strict=True))
    for number, (letter, curve) in enumerate(named):
        if not curve:
            continue
        shape = "braille" if colours and unicode else letter[0]
        colour = plotext.pixel(foreground=COLOURS[number % len(COLOURS)]) if colours else None
        signal = figure.signal(*_columns(curve), marker=plotext.marker(shape, colour))
        figure.draw(signal.lines(True))
    text: str = figure.build().string(colorless=not colours)
    lines = [line.rstrip() for line in text.rstrip("\n").splitlines()]
    if colours and len(named) > 1:
        lines.append("  ".join(_in_colour(letter, number) for number, (letter, _) in enumerate(named)))
    drawn = "\n".join(lines)
    return drawn if unicode else drawn.translate(PLAIN)


def _in_colour(letter: str, number: int) -> str:
    return f"\x1b[38;5;{COLOURS[number % len(COLOURS)]}m── {letter}\x1b[0m"


def _step_ticks(first: int, last: int, width: int) -> tuple[list[int], list[str]]:
    """Whole steps, evenly spread, with as many labels as there is room for."""
    count = max(1, min(5, width // 16, last - first))
    steps = sorted({round(first + (last - first) * i / count) for i in range(count + 1)})
    return steps, [str(step) for step in steps]


def plot(file: Path, curves: Curves, runs: Sequence[RunFacts]) -> None:
    """Draw the metrics, one below the other, into a PNG file. Raises `InputError` if it cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if file.suffix.lower() != ".png":
        raise InputError("this picture is a PNG file", saw=str(file), allowed="a name that ends in .png")
    figure = Figure(figsize=(9, 3.6 * max(1, len(curves))), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (tag, each) in enumerate(curves.items()):
        axes = figure.add_subplot(len(curves), 1, number + 1)
        _draw(axes, tag, each, runs)
    try:
        figure.savefig(file, dpi=150)
    except OSError as cause:
        raise InputError("the picture cannot be written", saw=str(cause), field="--plot") from None


def _draw(
    axes: Any, tag: str, curves: Sequence[Sequence[tuple[int, float]]], runs: Sequence[RunFacts]
) -> None:
    names = letters(len(runs))
    for name, run, curve in zip(names, runs, curves, strict=True):
        label = f"{name}: {run.record.run_id}" if len(runs) > 1 else run.record.run_id
        marker = "o" if len(curve) < 30 else None
        (line,) = axes.plot(*_columns(smooth(curve)), label=label, linewidth=1.4, marker=marker, markersize=3)
        if smooth(curve) != list(curve):
            axes.plot(*_columns(curve), color=line.get_color(), linewidth=0.6, alpha=0.25)
    axes.set_title(tag, fontsize=10, loc="left")
    axes.set_xlabel("optimiser step")
    axes.set_ylabel(next((unit for start, unit in UNITS.items() if tag.startswith(start)), _short(tag)))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _columns(curve: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in curve], [value for _, value in curve]


def _short(tag: str) -> str:
    name = tag.split("/", 1)[1].replace("_", " ")
    return f"{name} (validation)" if tag.startswith(VALIDATION) else name
