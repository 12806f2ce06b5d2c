#!/usr/bin/env python3
"""Check the built site: every internal link leads somewhere, and nothing is loaded from elsewhere."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parents[2]
LOADING: Final = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}
"""What a browser fetches by itself, and where it says so."""
NOT_FETCHED: Final = frozenset({"canonical", "prev", "next"})
THE_SITES_ROOT: Final = "404.html"  # the one page whose links are not relative to it


@dataclass(slots=True)
class Page:
    """What a page refers to and offers.

    Attributes:
        ids: Its anchors.
        links: Where its links lead.
        loads: What a browser fetches to show it.
    """

    ids: set[str] = field(default_factory=set[str])
    links: list[str] = field(default_factory=list[str])
    loads: list[str] = field(default_factory=list[str])


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        self.page.ids |= {told[name] for name in ("id", "name") if name in told}
        if tag == "a" and "href" in told:
            self.page.links.append(told["href"])
        elif tag in LOADING and LOADING[tag] in told and told.get("rel", "") not in NOT_FETCHED:
            self.page.loads.append(told[LOADING[tag]])


def read(path: Path) -> Page:
    """Read a built page."""
    reader = _Reader()
    reader.feed(path.read_text())
    return reader.page


def problems(site: Path) -> Iterator[str]:
    """Say what is wrong with a built site, a line each."""
    pages = {path: read(path) for path in site.rglob("*.html") if path.name != THE_SITES_ROOT}
    if not pages:
        yield f"{site}: there is no site"
    for path, page in sorted(pages.items()):
        where = path.relative_to(site)
        for url in page.loads:
            if urlsplit(url).netloc:
                yield f"{where}: loads {url} from elsewhere"
        for url in (*page.links, *page.loads):
            target, fragment = _target(path, url)
            if target is None:
                continue
            if not target.exists():
                yield f"{where}: {url} leads nowhere"
            elif fragment and target in pages and fragment not in pages[target].ids:
                yield f"{where}: {url}: there is no such anchor"


def _target(path: Path, url: str) -> tuple[Path | None, str]:
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return None, ""
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    return (target / "index.html" if target.is_dir() else target), unquote(parts.fragment)


def main() -> int:
    """Print what is wrong; return the exit status."""
    found = list(problems(ROOT / "site"))
    sys.stderr.write("".join(f"{line}\n" for line in found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
