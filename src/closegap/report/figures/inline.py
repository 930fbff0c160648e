"""An SVG file made fit to stand inside a page.

The page forbids styles in attributes (its content security policy) and has two themes, so a
drawing's styles become plain attributes, and colours that stand for a role become class names.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

__all__ = ["inline_svg"]

_DROPPED_PROPERTIES = frozenset({"font-family", "font"})
_DROPPED_ATTRIBUTES = frozenset({"width", "height", "version", "space", "style"})
_REFERENCE = re.compile(r"(?:url\()?#([^)]+)\)?")
_DECIMAL = re.compile(r"-?\d+\.\d{3,}")
_NO_TURN = re.compile(r"rotate\(-?0(\.0*)? ")


def inline_svg(text: str, key: str, title: str, summary: str, colours: dict[str, str]) -> str:
    """Rewrite an SVG document as an element of an HTML page.

    Args:
        text: the document.
        key: prefix of every id, unique on the page.
        title: short name, read out by screen readers.
        summary: what the drawing shows, in words.
        colours: `#rrggbb` of the drawing to class names; `fill-` or `stroke-` is put before.

    Returns:
        an `<svg>` element without styles, metadata, namespaces or fixed size.
    """
    root = ElementTree.fromstring(text)
    names = _new_names(root, key)
    _rewrite(root, names, colours)
    box = root.attrib.pop("viewBox")
    root.attrib = {
        "viewBox": box,
        "role": "img",
        "aria-labelledby": f"{key}-title {key}-desc",
        **root.attrib,
    }
    for tag, words in (("desc", summary), ("title", title)):
        element = ElementTree.Element(tag, {"id": f"{key}-{tag}"})
        element.text = words
        root.insert(0, element)
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    return name.rsplit("}", 1)[-1]


def _new_names(root: ElementTree.Element, key: str) -> dict[str, str]:
    """New ids for what is referred to, in document order; all other ids go."""
    used: dict[str, str] = {}
    for element in root.iter():
        for name, value in element.attrib.items():
            found = _REFERENCE.fullmatch(value) if _local(name) in ("href", "clip-path") else None
            if found:
                used.setdefault(found[1], f"{key}-{len(used)}")
    return used


def _rewrite(element: ElementTree.Element, names: dict[str, str], colours: dict[str, str]) -> None:
    element.tag = _local(element.tag)
    element.text = _squeezed(element.text)
    element.tail = _squeezed(element.tail)
    style = element.get("style", "")
    given = {_local(k): v for k, v in element.attrib.items()}
    kept = {
        name: _renamed(name, value, names)
        for name, value in given.items()
        if name not in _DROPPED_ATTRIBUTES or (element.tag == "rect" and name != "style")
    }
    if kept.get("id", "") not in names.values():
        kept.pop("id", None)
    if _NO_TURN.match(kept.get("transform", "")):
        del kept["transform"]
    element.attrib = kept | _presentation(style, colours)
    for child in list(element):
        if _local(child.tag) in ("metadata", "style"):
            element.remove(child)
        else:
            _rewrite(child, names, colours)


def _renamed(name: str, value: str, names: dict[str, str]) -> str:
    if name == "id":
        return names.get(value, "")
    if name == "d":
        return _DECIMAL.sub(lambda found: f"{float(found[0]):.2f}", " ".join(value.split()))
    found = _REFERENCE.fullmatch(value) if name in ("href", "clip-path") else None
    return value.replace(found[1], names[found[1]]) if found else value


def _presentation(style: str, colours: dict[str, str]) -> dict[str, str]:
    pairs = [part.split(":", 1) for part in style.split(";") if ":" in part]
    values = {name.strip(): value.strip() for name, value in pairs}
    classes = [
        f"{name}-{colours[value]}"
        for name, value in values.items()
        if name in ("fill", "stroke") and value in colours
    ]
    kept = {
        name: value
        for name, value in values.items()
        if name not in _DROPPED_PROPERTIES and value not in colours
    }
    return kept | ({"class": " ".join(classes)} if classes else {})


def _squeezed(text: str | None) -> str | None:
    return None if text is None or not text.strip() else text
