"""What all pictures have in common: a page of SVG, and a few shapes on it. No library, no script, no font of ours."""

import html
from collections.abc import Iterable, Sequence

COLOURS = ("#4c78a8", "#f2b447", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#9d755d", "#59595b")
"""Of things that are told apart, in turn."""


def page(title: str, width: float, height: float, shapes: Sequence[str], font: str = "") -> str:
    """A picture on white, with what it is called."""
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"{font}'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<title>{html.escape(title)}</title>\n'
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>\n' + "\n".join(shapes) + "\n</svg>\n"
    )


TEXT = ' font-family="monospace" font-size="12"'
"""The font of a page that has words."""
LETTER = 7.2
"""About how wide a letter of it is."""


def points(pairs: Iterable[tuple[float, float]]) -> str:
    """Places as a line or a polygon has them."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)


def polyline(pairs: Iterable[tuple[float, float]], colour: str, width: float = 1.5) -> str:
    """A line through places."""
    return f'<polyline points="{points(pairs)}" fill="none" stroke="{colour}" stroke-width="{width:g}"/>'


def dot(x: float, y: float, colour: str) -> str:
    """A dot."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'


def words(x: float, y: float, text: str, anchor: str = "start") -> str:
    """A line of words; `anchor` says which end of it is at x: start, middle or end."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
