"""HTML and SVG from strings; whatever is not marked as HTML is escaped on its way in."""

import json
import re
from collections.abc import Iterable
from html import escape
from typing import Any

VOID = ("meta", "path", "line", "rect", "circle")
"""Elements without content; those of SVG close themselves, which HTML reads as well."""

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]")
"""Characters that no HTML file may hold, and halves of characters, which no file can."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def clean(text: str) -> str:
    """``text`` with a replacement character for whatever HTML has no room for."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def element(name: str, /, *children: str | None, **attributes: Any) -> Markup:
    """``<name attributes>children</name>``.

    Args:
        name: of the element.
        children: text, which is escaped, or :class:`Markup`; None is nothing.
        attributes: their names with ``_`` for ``-``, and one at the end where Python has the word
            for itself (``class_``). None and False leave the attribute out, True has no value.
    """
    opening = "".join([name, *_attributes(attributes)])
    if name in VOID:
        return Markup(f"<{opening}/>")
    return Markup(f"<{opening}>{joined(children)}</{name}>")


def joined(children: Iterable[str | None]) -> Markup:
    """The children one after the other; text among them is escaped."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else escape(clean(child))
            for child in children
            if child is not None
        )
    )


def _attributes(attributes: dict[str, Any]) -> Iterable[str]:
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        name = key.rstrip("_").replace("_", "-")
        if value is True:
            yield f" {name}"
        else:
            text = f"{value:.6g}" if isinstance(value, float) else str(value)
            yield f' {name}="{escape(clean(text))}"'


def embedded(data: Any) -> Markup:
    """JSON that no ``</script>`` or line separator within it can end early.

    Raises:
        ValueError: the data has NaN or infinity, which JSON has not.
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))  # ASCII: U+2028 is escaped
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def shortened(text: str, limit: int) -> str:
    """``text`` with its middle left out where it is longer than ``limit`` characters."""
    if len(text) <= limit:
        return text
    head = (limit - 1) * 2 // 3
    return f"{text[:head]}…{text[head + 1 - limit :]}"
