"""SVG as text: elements with escaped attributes and contents, and paths with round corners."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from xml.sax.saxutils import escape, quoteattr

__all__ = ["Point", "clean", "document", "element", "number", "polyline", "printable", "text"]

Point = tuple[float, float]

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def printable(content: str) -> str:
    """Replace what no XML document and no UTF-8 file may contain: control characters and lone surrogates.

    Args:
        content: Any string, such as the name of a module.

    Returns:
        Text that any file can hold; not escaped.

    Example:
        >>> printable("bell" + chr(7)) == "bell" + chr(0xFFFD)
        True
    """
    return _NOT_XML.sub("\ufffd", content)


def clean(content: str) -> str:
    """Escape text for XML and HTML; what neither may contain is replaced.

    Args:
        content: Any string, such as the name of a module.

    Returns:
        Text that can stand between two tags.

    Example:
        >>> clean("a<b>&" + chr(0)) == "a&lt;b&gt;&amp;" + chr(0xFFFD)
        True
    """
    return escape(printable(content))


def element(tag: str, /, *children: str, **attributes: float | str | None) -> str:
    r"""Write one element.

    Args:
        tag: Its name.
        *children: What is inside, already markup.
        **attributes: Underscores become hyphens, one at the end is dropped; numbers are rounded to
            hundredths, None is left out.

    Returns:
        The markup.

    Example:
        >>> element("rect", x=1.0, stroke_width=0.333, class_='a"b')
        '<rect x="1" stroke-width="0.33" class=\'a"b\'/>'
    """
    words = [tag]
    for name, value in attributes.items():
        if value is not None:
            shown = number(value) if isinstance(value, int | float) else printable(value)
            words.append(f"{name.rstrip('_').replace('_', '-')}={quoteattr(shown)}")
    opening = " ".join(words)
    return f"<{opening}>{''.join(children)}</{tag}>" if children else f"<{opening}/>"


def number(value: float) -> str:
    """Print a coordinate: hundredths are finer than any screen, and the same on every machine.

    Args:
        value: The coordinate.

    Returns:
        Its text.

    Example:
        >>> number(2.0), number(1 / 3), number(-0.001)
        ('2', '0.33', '0')
    """
    shown = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if shown == "-0" else shown


def text(x: float, y: float, content: str, **attributes: float | str | None) -> str:
    """Write a text element.

    Args:
        x: Where it starts, or its middle or end as ``text_anchor`` says.
        y: Its base line.
        content: The text, not escaped.
        **attributes: As in ``element``.

    Returns:
        The markup.
    """
    return element("text", clean(content), x=x, y=y, **attributes)


def polyline(points: Sequence[Point], radius: float = 5.0) -> str:
    """Return path data through the points, corners rounded.

    Args:
        points: At least two; neighbours share x or y.
        radius: Of the corners, smaller where a segment is short.

    Returns:
        The ``d`` attribute of a path.

    Example:
        >>> polyline([(0, 0), (10, 0), (10, 20)])
        'M0 0L5 0Q10 0 10 5L10 20'
    """
    kept = [point for point, before in zip(points, [None, *points], strict=False) if point != before]
    words = [f"M{number(kept[0][0])} {number(kept[0][1])}"]
    for (a, corner), (_, b) in pairwise(pairwise(kept)):
        into, out = _towards(corner, a, radius), _towards(corner, b, radius)
        words.append(f"L{_pair(into)}Q{_pair(corner)} {_pair(out)}")
    return "".join([*words, f"L{_pair(kept[-1])}"])


def _towards(corner: Point, other: Point, radius: float) -> Point:
    length = abs(other[0] - corner[0]) + abs(other[1] - corner[1])
    share = min(radius, length / 2) / length
    return corner[0] + (other[0] - corner[0]) * share, corner[1] + (other[1] - corner[1]) * share


def _pair(point: Point) -> str:
    return f"{number(point[0])} {number(point[1])}"


def document(width: float, height: float, children: Iterable[str], *, title: str) -> str:
    """Write a whole SVG document on a white ground, one child a line.

    Args:
        width: In pixels.
        height: In pixels.
        children: Markup.
        title: What screen readers say.

    Returns:
        The document; it can also stand inside an HTML page.
    """
    sheet = [
        element("title", clean(title)),
        element("rect", width=width, height=height, rx=8.0, fill="#ffffff"),
        *children,
    ]
    return element(
        "svg",
        "\n" + "\n".join(sheet) + "\n",
        xmlns="http://www.w3.org/2000/svg",
        width=width,
        height=height,
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="img",
        font_family=FONT,
        font_size=12.0,
    )
