"""No link inside the documentation is dead, whether it is read as a site or as files."""

import importlib
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from pages import DOCS, ROOT, all_pages, name_of, without_fences

LINK = re.compile(r"(?<!!)\[(?:[^\]\[]|\[[^\]]*\])*\]\((?P<target>[^)\s]+)(?:\s+\"[^\"]*\")?\)")
HREF = re.compile(r'(?:href|src)="(?P<target>[^"]+)"')
HEADING = re.compile(r"^#{1,6} (?P<text>.+?)(?:\s*\{\s*#(?P<id>[\w.-]+)[^}]*\})?\s*$", re.MULTILINE)
EXPLICIT = re.compile(r"(?:\bid=\"(?P<id>[^\"]+)\"|\{[^}\n]*#(?P<attr>[\w.-]+)[^}\n]*\})")
NAME = re.compile(r"^::: (?P<name>[\w.]+)$", re.MULTILINE)
FOREIGN = ("https://", "http://", "mailto:")
REGISTRIES = re.compile(r"\b(pypi|pythonhosted|npmjs|crates)\.(org|com|io)\b")


def files() -> list[Path]:
    return [*all_pages(), *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"))]


def links(path: Path) -> Iterator[str]:
    prose = re.sub(r"`[^`\n]*`", "", without_fences(path.read_text()))
    for pattern in (LINK, HREF):
        for match in pattern.finditer(prose):
            yield match["target"]


@cache
def anchors(path: Path) -> frozenset[str]:
    text = without_fences(path.read_text())
    found = {match["id"] or slug(match["text"]) for match in HEADING.finditer(text)}
    for match in EXPLICIT.finditer(text):
        found.add(match["id"] or match["attr"])
    for match in NAME.finditer(text):
        found |= {match["name"], *members(match["name"])}
    return frozenset(found)


def members(name: str) -> set[str]:
    module, _, attribute = name.rpartition(".")
    member = getattr(importlib.import_module(module), attribute)
    return {f"{name}.{inner}" for inner in dir(member) if not inner.startswith("_")}


def slug(heading: str) -> str:
    """As the site's table of contents makes one."""
    text = re.sub(r"`|\*|\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_every_internal_link_leads_to_a_file_and_an_anchor(path):
    dead = []
    for target in links(path):
        if target.startswith(FOREIGN):
            continue
        file, _, fragment = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        if not found.exists() or (fragment and found.suffix == ".md" and fragment not in anchors(found)):
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize("path", [path for path in all_pages() if path.is_relative_to(DOCS)], ids=name_of)
def test_a_page_of_the_site_links_to_nothing_outside_of_it(path):
    outside = [
        target
        for target in links(path)
        if not target.startswith((*FOREIGN, "#"))
        and not (path.parent / target.partition("#")[0]).resolve().is_relative_to(DOCS)
    ]
    assert outside == []


def test_every_page_is_in_the_navigation_and_nothing_else_is():
    configured = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    there = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert set(_paths(configured)) == there


def _paths(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    else:
        for inner in node.values() if isinstance(node, dict) else node:
            yield from _paths(inner)


def test_the_overview_for_language_models_leads_to_pages_that_exist():
    text = (DOCS / "llms.txt").read_text()
    assert text.startswith("# llm-config-sdk\n\n> ")
    targets = [match["target"] for match in LINK.finditer(text)]
    assert targets
    assert [target for target in targets if not (DOCS / target).exists()] == []
    overviews = {"index.md", "how-to/index.md", "reference/index.md", "explanation/index.md"}
    assert {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} - overviews == set(targets)


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_no_page_names_the_address_of_a_package_registry(path):
    assert REGISTRIES.search(path.read_text()) is None
