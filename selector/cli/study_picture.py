"""A study as a picture: the arms at the largest scale, their ranks along the scales, and what they trade for what.

Left: the mean of each arm with its 95 % interval, the best above; the dashed line is the random control. Middle: the
rank of each arm at each scale, where lines that cross mean that no winner holds. Right, where quality and diversity
were measured: one against the other; nothing is better in both than what is on the line.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from selector.cli import drawing
from selector.tune.arms import RANDOM

_ROW, _MARGIN, _PANEL, _GREY = 22, 16, 260, "#999"
_DIVERSITY = ("vendi", "entropy")


def draw(content: Mapping[str, Any]) -> str | None:
    """The picture of a study as SVG; None where nothing was measured."""
    if not content["cells"]:
        return None
    names = [arm["name"] for arm in content["arms"]]
    colours = {name: drawing.COLOURS[i % len(drawing.COLOURS)] for i, name in enumerate(names)}
    left = _MARGIN + drawing.LETTER * (max(map(len, names)) + 1)
    height = 2 * _MARGIN + _ROW * (len(names) + 3)
    shapes, x = _intervals(content, colours, left), left + _PANEL + 2 * _MARGIN
    shapes += _ranks(content, colours, x)
    x += _PANEL + left
    front = _front(content, colours, x, height)
    shapes += front
    width = x + (_PANEL + 2 * _MARGIN if front else 0)
    return drawing.page(f"{content['metric']} of the arms of a study", width, height, shapes, drawing.TEXT)


def _intervals(content: Mapping[str, Any], colours: Mapping[str, str], left: float) -> list[str]:
    """Means with their intervals at the last condition."""
    last = content["conditions"][-1]
    sign = -1 if content["better"] == "higher" else 1
    cells = sorted(
        (cell for cell in content["cells"] if cell["condition"] == last), key=lambda cell: sign * cell["mean"]
    )
    ends = [end for cell in cells for end in (cell["low"], cell["high"], cell["mean"]) if end is not None]
    place = _scale(ends, left, _PANEL)
    shapes = [drawing.words(left, _MARGIN + 4, f"{content['metric']} at {last}, 95 %")]
    for row, cell in enumerate(cells, 1):
        y, colour = _MARGIN + _ROW * (row + 0.5), colours[cell["arm"]]
        shapes.append(drawing.words(left - 8, y + 4, cell["arm"], "end"))
        if cell["low"] is not None and cell["high"] is not None:
            shapes.append(drawing.polyline([(place(cell["low"]), y), (place(cell["high"]), y)], colour, 2))
        shapes.append(drawing.dot(place(cell["mean"]), y, colour))
        if cell["arm"] == RANDOM:
            at, bottom = place(cell["mean"]), _MARGIN + _ROW * (len(cells) + 1)
            shapes.append(
                f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_MARGIN + _ROW:.1f}" y2="{bottom:.1f}" stroke="{_GREY}" '
                'stroke-dasharray="3 3"/>'
            )
    low, high = min(ends), max(ends)
    bottom = _MARGIN + _ROW * (len(cells) + 1.8)
    return [
        *shapes,
        drawing.words(left, bottom, f"{low:.4g}"),
        drawing.words(left + _PANEL, bottom, f"{high:.4g}", "end"),
    ]


def _ranks(content: Mapping[str, Any], colours: Mapping[str, str], x: float) -> list[str]:
    """The rank of each arm at each condition, from the smallest to the largest."""
    conditions: Sequence[str] = content["conditions"]
    step = (_PANEL - 2 * _MARGIN) / max(1, len(conditions) - 1)
    shapes = [drawing.words(x, _MARGIN + 4, "rank by scale, the smallest first")]
    for name, colour in colours.items():
        ranks = {cell["condition"]: cell["rank"] for cell in content["cells"] if cell["arm"] == name}
        line = [
            (x + _MARGIN + step * i, _MARGIN + _ROW * (ranks[condition] + 0.5))
            for i, condition in enumerate(conditions)
            if ranks.get(condition) is not None
        ]
        if line:
            shapes += [drawing.polyline(line, colour, 2), *(drawing.dot(*place, colour) for place in line)]
            shapes.append(drawing.words(line[-1][0] + 8, line[-1][1] + 4, name))
    return shapes


def _front(content: Mapping[str, Any], colours: Mapping[str, str], x: float, height: float) -> list[str]:
    """Quality against diversity at the last condition, and the line of those that nothing beats in both."""
    last = content["conditions"][-1]
    measured = {
        cell["arm"]: {content["metric"]: cell["mean"], **cell["other"]}
        for cell in content["cells"]
        if cell["condition"] == last
    }
    diversity = next((name for name in _DIVERSITY if all(name in of for of in measured.values())), None)
    if diversity is None or not all("quality" in of for of in measured.values()):
        return []
    across = _scale([of[diversity] for of in measured.values()], x + _MARGIN, _PANEL - 2 * _MARGIN)
    top, deep = _MARGIN + _ROW, height - 3 * _ROW - _MARGIN
    upwards = _scale([of["quality"] for of in measured.values()], 0, deep)
    places = {name: (of[diversity], of["quality"]) for name, of in measured.items()}
    unbeaten = sorted(
        place
        for name, place in places.items()
        if not any(
            other[0] >= place[0] and other[1] >= place[1] and other != place
            for another, other in places.items()
            if another != name
        )
    )

    def at(place: tuple[float, float]) -> tuple[float, float]:
        return across(place[0]), top + deep - upwards(place[1])

    shapes = [drawing.words(x, _MARGIN + 4, f"quality (up) by {diversity} (right)")]
    shapes.append(drawing.polyline(map(at, unbeaten), _GREY))
    for name, place in places.items():
        own_x, own_y = at(place)
        shapes += [drawing.dot(own_x, own_y, colours[name]), drawing.words(own_x, own_y - 6, name, "middle")]
    return shapes


def _scale(values: Sequence[float], start: float, length: float) -> Any:
    """Where a value lies on a stretch of the page."""
    low, high = min(values), max(values)
    return lambda value: start + length * ((value - low) / (high - low) if high > low else 0.5)
