"""`wslessons html`: each lesson and each public name on a page, and no link that leads nowhere."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from wslessons import cli
from wslessons.errors import MissingExtra
from wslessons.lab import html, lessons

PACKAGE = Path(__file__).parents[2] / "wslessons"
pytestmark = pytest.mark.timeout(600)


class Page(HTMLParser):
    """What a page has: its sections, where it leads to, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.pictures: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what one element says."""
        named = {name: value or "" for name, value in attrs}
        self.ids |= {named[name] for name in ("id", "name") if name in named}
        if tag == "a" and "href" in named:
            self.links.add(named["href"])
        elif tag in {"script", "link", "img", "iframe"}:
            self.loads |= {named[name] for name in ("src", "href") if name in named}
        if tag == "img":
            self.pictures.append(named.get("alt", ""))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All pages."""
    return html.write(tmp_path_factory.mktemp("pages"))


def lesson_pages(folder: Path) -> list[Path]:
    """The page of each notebook."""
    return [
        (folder / lesson.relative_to(lessons.originals())).with_suffix(".html")
        for lesson in lessons.all_lessons()
    ]


def dead(path: Path, folder: Path, pages: dict[Path, Page]) -> Iterator[str]:
    """Yield each link of a page to a file, or a section of one, that is not there."""
    for link in pages[path].links | pages[path].loads:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if target.suffix == ".html" and parts.fragment:
            if target not in pages:
                pages[target] = Page(target)
            # Browsers look for it as it is written first.
            if not {parts.fragment, unquote(parts.fragment)} & pages[target].ids:
                yield f"{path.relative_to(folder)}: {link}"
        elif not target.is_file():
            yield f"{path.relative_to(folder)}: {link}"


def test_every_lesson_is_a_page_whose_links_lead_somewhere(folder: Path) -> None:
    """Also to sections, to the reference and back; and it loads nothing from elsewhere."""
    pages = {path: Page(path) for path in lesson_pages(folder)}
    assert folder / "index.html" in pages
    assert [link for path in list(pages) for link in dead(path, folder, pages)] == []
    for path in lesson_pages(folder):
        assert not {each for each in pages[path].loads if not each.startswith(("data:", "img/"))}
        assert "<script" not in path.read_text(encoding="utf-8")


def test_diagrams_and_panels_are_pictures(folder: Path) -> None:
    """Mermaid's are drawn, with their source for those who can't see; a panel shows its box."""
    page = Page(folder / "02_chat.html")
    assert any(
        each.startswith("flowchart LR accTitle: From alice's socket") for each in page.pictures
    )
    for path in lesson_pages(folder):
        text = path.read_text(encoding="utf-8")
        assert 'class="mermaid"' not in text
        assert "```" not in re.sub(r"<(pre|code)\b.*?</\1>", "", text, flags=re.DOTALL)
        assert "widget-view" not in text


def test_every_public_name_is_in_the_reference(folder: Path) -> None:
    """Each module has a page with all that its `__all__` lists; functions have their types."""
    names = html.modules()
    files = [path.relative_to(PACKAGE.parent).with_suffix("") for path in PACKAGE.rglob("*.py")]
    every = {".".join(path.parts).removesuffix(".__init__") for path in files}
    assert set(names) == {name for name in every if "__main__" not in name}
    for name in names:
        module = importlib.import_module(name)
        page = Page(folder.joinpath("api", *name.split(".")).with_suffix(".html"))
        assert set(getattr(module, "__all__", [])) <= page.ids, name
    channel = (folder / "api" / "wslessons" / "chat" / "channel.html").read_text(encoding="utf-8")
    subscribe = channel[channel.index('id="Channel.subscribe"') :][:3000]
    assert "since" in re.sub(r"<[^>]*>", "", subscribe)
    assert "int | None" in re.sub(r"<[^>]*>", "", subscribe)


def test_the_reference_leads_to_the_lessons(folder: Path) -> None:
    """From the start page to each room; from a module to its parts, and to who names it."""
    pages: dict[Path, Page] = {}
    for name in ("wslessons", "wslessons.calls", "wslessons.scaling.bus"):
        path = folder.joinpath("api", *name.split(".")).with_suffix(".html")
        pages[path] = Page(path)
        assert any(link.endswith("../index.html") for link in pages[path].links)
        assert [each for each in dead(path, folder, pages) if "#" not in each] == []
    start = (folder / "api" / "wslessons.html").read_text(encoding="utf-8")
    rows = {row.partition("</a>")[0].rpartition(">")[2]: row for row in start.split("<tr>")[2:]}
    assert set(rows) == {n.rpartition(".")[2] for n in html.modules() if n.count(".") == 1}
    for room, place in (("echo", "01_echo"), ("chat", "02_chat"), ("scaling", "06_scaling")):
        assert f'href="../{place}.html"' in rows[room]
    assert all(len(re.sub(r"<[^>]*>", "", row)) > 20 for row in rows.values())
    text = (folder / "api" / "wslessons" / "scaling" / "bus.html").read_text(encoding="utf-8")
    assert 'href="../../wslessons/scaling/bus/nats.html"' in text


def test_command_says_where_to_begin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, the path of the index; a folder that can't be written is a sentence."""
    monkeypatch.setattr(html, "_reference", lambda *args: None)
    monkeypatch.setattr(html, "all_lessons", lambda: [lessons.find("index")])
    assert cli.main(["html", str(tmp_path / "pages")]) == 0
    assert Path(capsys.readouterr().out.strip()) == tmp_path / "pages" / "index.html"
    (tmp_path / "file").touch()
    assert cli.main(["html", str(tmp_path / "file" / "pages")]) == 1
    assert re.match(r"wslessons: can't write to .*: not a directory\.", capsys.readouterr().err)


def test_missing_extra_is_found_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It names `html`."""
    monkeypatch.setitem(__import__("sys").modules, "pdoc", None)
    with pytest.raises(MissingExtra, match=r"pip install 'wslessons\[html\]'"):
        html.write(tmp_path / "pages")
    assert not (tmp_path / "pages").exists()
