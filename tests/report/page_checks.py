"""A strict reader of pages: every tag closed, every id unique, nothing from outside."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = frozenset({"meta", "link", "img", "input", "br", "hr", "wbr"})
_COLOUR = re.compile("#[0-9a-f]{6}")


@dataclass
class Page:
    """What a page holds."""

    ids: list[str] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    text: str = ""
    elements: dict[str, str] = field(default_factory=dict)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page = Page()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.page.text += " "
        self._attributes(tag, attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open or tag == "svg", f"<{tag}/> closes itself outside a drawing"
        self._attributes(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> was never opened"
        assert self.open.pop() == tag, f"</{tag}> closes another element, line {self.getpos()[0]}"

    def handle_data(self, data: str) -> None:
        where = self.open[-1] if self.open else ""
        if where in ("style", "script"):
            self.page.elements[where] = self.page.elements.get(where, data)
            self.page.elements[f"last {where}"] = data
        else:
            self.page.text += data

    def _attributes(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> has an attribute twice: {names}"
        for name, value in attrs:
            value = value or ""
            self.page.attributes.append((tag, name, value))
            if name == "id":
                self.page.ids.append(value)
            if name in ("aria-labelledby", "aria-controls", "for"):
                self.page.references += value.split()
            found = re.search(r"#([\w-]+)\)?$", value)
            if name in ("href", "clip-path", "fill") and found and not _COLOUR.fullmatch(value):
                self.page.references.append(found[1])


def read_page(text: str) -> Page:
    """Read a page and insist that it is sound and self-contained."""
    assert text.startswith("<!doctype html>")
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open, f"never closed: {reader.open}"
    page = reader.page
    assert len(set(page.ids)) == len(page.ids), "an id is used twice"
    missing = set(page.references) - set(page.ids)
    assert not missing, f"references to ids that are not there: {missing}"
    for tag, name, value in page.attributes:
        assert name != "style" and not name.startswith("on"), f"<{tag} {name}> breaks the policy"
        if name in ("src", "href"):
            assert value.startswith(("#", "data:")), f"<{tag} {name}={value}> leads outside"
    assert not re.search(r"@import|url\((?!#)|https?://", text), "an address of the outside"
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", text)
    return page
