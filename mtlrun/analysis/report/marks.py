"""How a method looks in the pictures of a page: colour, dashes and shape by its row."""

from collections.abc import Iterable

from mtlrun.analysis.report.markup import Markup, element

COLOURS, DASHES, SHAPES = 7, 4, 4
"""How many there are in page.css. Two methods share all of them only 28 rows apart."""


def mark_class(at: int) -> str:
    """The classes that give the method of row ``at`` its colour and dashes."""
    return f"c{at % COLOURS} d{at % DASHES}"


def mark(at: int, x: float, y: float, size: float = 5.0) -> Markup:
    """A method's point: its colour, and a shape for those who see none."""
    classes = f"mark {mark_class(at)}"
    if at % SHAPES == 0:
        return element("circle", cx=x, cy=y, r=size, class_=classes)
    if at % SHAPES == 1:
        side = 2 * size - 1
        corner = side / 2
        return element("rect", x=x - corner, y=y - corner, width=side, height=side, class_=classes)
    wide, tall = size * 1.25, size * 1.2
    if at % SHAPES == 2:
        path = f"M{x:.1f} {y - tall:.1f}l{wide:.1f} {1.9 * tall:.1f}h{-2 * wide:.1f}z"
    else:
        path = (
            f"M{x:.1f} {y - tall:.1f}l{tall:.1f} {tall:.1f}l{-tall:.1f} {tall:.1f}"
            f"l{-tall:.1f} {-tall:.1f}z"
        )
    return element("path", d=path, class_=classes)


def text_mark(at: int) -> Markup:
    """A method's point to stand in a line of text."""
    return element(
        "svg",
        mark(at, 7, 7),
        class_="key",
        width=14,
        height=14,
        viewBox="0 0 14 14",
        aria_hidden="true",
    )


def method_cell(at: int, label: str) -> Markup:
    """The head of a method's row in a table."""
    name = element("span", text_mark(at), element("span", label), class_="method")
    return element("th", name, scope="row", data_value=label)


def picture(parts: Iterable[str], name: str, width: float, height: float, summary: str) -> Markup:
    """An SVG picture that says in words what it shows."""
    return element(
        "svg",
        *parts,
        class_=f"picture {name}",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=width,
        height=height,
        role="img",
        aria_label=summary,
    )


def line(x1: float, y1: float, x2: float, y2: float, name: str) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=name)


def words(text: str, x: float, y: float, anchor: str = "middle", name: str | None = None) -> Markup:
    """Text in a picture, from, around or up to a point."""
    return element("text", text, x=x, y=y, text_anchor=anchor, class_=name)
