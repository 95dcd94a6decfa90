"""Reads what the drawings are made of, by other means than those that wrote it."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from xml.etree import ElementTree

VOID = {"meta", "br"}
SVG = "{http://www.w3.org/2000/svg}"


def svg(text: str) -> ElementTree.Element:
    """Parse an SVG document; fails unless it is well-formed and refers to nothing outside."""
    root = ElementTree.fromstring(text.encode("utf-8"))
    assert root.tag == f"{SVG}svg"
    for one in root.iter():
        assert not {name for name in one.attrib if "href" in name or name.startswith("on")}
        assert one.tag.removeprefix(SVG) in {"svg", "g", "rect", "path", "text", "title", "line"}
        assert all("url(" not in value for value in one.attrib.values())
    return root


def texts(root: ElementTree.Element) -> list[str]:
    return [one.text or "" for one in root.iter(f"{SVG}text")]


def titles(root: ElementTree.Element) -> list[str]:
    return [one.text or "" for one in root.iter(f"{SVG}title")]


@dataclass
class Page(HTMLParser):
    """An HTML page; fails where an element is closed that is not the one opened last."""

    opened: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.opened.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """``<rect/>`` inside SVG."""
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag, f"</{tag}> closes something else, after {self.words[-1:]}"

    def handle_data(self, data: str) -> None:
        if self.opened and self.opened[-1] == "script":
            self.scripts[-1] += data
        else:
            self.words.append(data)


def page(text: str) -> Page:
    parsed = Page()
    parsed.feed(text)
    parsed.close()
    assert parsed.opened == []
    return parsed
