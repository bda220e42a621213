"""`wslessons html DIR`: all lessons, and a reference of the package, as pages for any browser.

For those who only want to read: what the recorded notebooks show is shown, panels as their static
pictures, and nothing runs. The pages need no network and, for the lessons, no JavaScript: Mermaid's
diagrams are drawn when the pages are made. nbconvert renders the notebooks, pdoc the docstrings,
and here both are made to lead to each other.

They are light or dark as the reader's browser is.

Not handled here: running anything, and a search over the lessons.

https://nbconvert.readthedocs.io/en/latest/nbconvert_library.html, https://pdoc.dev/docs/pdoc.html
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import functools
import html
import importlib
import pkgutil
import re
import shutil
import warnings
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wslessons.errors import MissingExtra, UserError, extra, print_line
from wslessons.lab.lessons import all_lessons, originals
from wslessons.lab.outputs import Notebook, import_jsonschema

__all__ = ["add_arguments", "modules", "run", "write"]

API = "api"
"""The folder of the reference, beside the lessons."""

LOOK = '%%{init: {"theme": "neutral", "look": "classic"}}%%\n'

IMPORTS = re.compile(r"^ *(?:from|import) (wslessons[\w.]*)(?: import (.*))?$", re.MULTILINE)

HEAD = """<style>
:root { color-scheme: light dark; --link: #0b57d0; --prompt: #595959; --comment: #35605f;
 --number: #0b5c0b; --operator: #7a1fa2; }
main { max-width: 60rem; margin: auto; padding: 0 1rem; }
nav.pages { max-width: 60rem; margin: auto; padding: 1rem; font-family: sans-serif; }
nav.pages a { margin-right: 1rem; color: var(--link); }
.jp-RenderedHTMLCommon a { text-decoration: underline !important; }
.jp-InputPrompt, .jp-OutputPrompt { color: var(--prompt) !important; opacity: 1 !important; }
.highlight [class^="c"] { color: var(--comment) !important; }
.highlight [class^="m"] { color: var(--number) !important; }
.highlight .o, .highlight .ow { color: var(--operator) !important; }
.jp-RenderedHTMLCommon table { display: block; overflow-x: auto; }
.jp-RenderedHTMLCommon .highlight pre { font-family: var(--jp-code-font-family);
 font-size: var(--jp-code-font-size); line-height: var(--jp-code-line-height); padding: 0 0 1em; }
pre { white-space: pre-wrap !important; word-break: normal !important; overflow-wrap: anywhere; }
.jp-RenderedSVG img { max-width: 100%; height: auto; }
figure.diagram img { max-width: 100%; background: white; }
@media (max-width: 40rem) { .jp-InputPrompt, .jp-OutputPrompt { display: none; } }
@media (prefers-color-scheme: dark) {
DARK
:root { --link: #8ab4f8; --prompt: #a0a0a0; --comment: #8fbcbb; --number: #a5d6a7;
 --operator: #ce93d8; }
}
</style>"""
"""For a lesson; DARK is JupyterLab's own dark theme."""

REFERENCE_HEAD = """<style>
:root { color-scheme: light dark; }
.pdoc { --muted: #4f565c; --name: #00508f; --def: #005f00; --annotation: #00591a;
 --comment: #2b5c5c; --string: #921616; --number: #3d3d3d; --symbol: #00508f; }
@media (prefers-color-scheme: dark) {
:root { --pdoc-background: #212529; }
.pdoc { --text: #f7f7f7; --muted: #a5acb2; --link: #8ab4f8; --link-hover: #b3cdfb; --code: #333;
 --active: #555; --accent: #343434; --accent2: #555; --nav-hover: rgba(0, 0, 0, .1);
 --name: #8cc8ff; --def: #8fd18f; --annotation: #9fd6a9;
 --comment: #8fbcbb; --string: #ffb4a9; --number: #a5d6a7; --symbol: #8cc8ff; }
}
.pdoc-code { background: var(--code); }
.pdoc-code .o, .pdoc-code .w, .pdoc-code [class^="g"] { color: var(--muted); }
.pdoc-code [class^="c"] { color: var(--comment); }
.pdoc-code [class^="k"], .pdoc-code .ow { color: var(--def); }
.pdoc-code [class^="s"], .pdoc-code .gr { color: var(--string); }
.pdoc-code [class^="m"] { color: var(--number); }
.pdoc-code [class^="n"], .pdoc-code .bp { color: var(--symbol); }
.pdoc-code .n, .pdoc-code .p { color: var(--text); }
.pdoc .docstring a, .pdoc .attr a, .pdoc .modulename a, .pdoc .rooms td a {
 text-decoration: underline; }
.pdoc { overflow-wrap: anywhere; }
.pdoc .rooms td { padding: .2rem .8rem; vertical-align: top; }
.pdoc .rooms p { margin: 0; }
.pdoc .attribution { color: var(--muted); opacity: 1; }
.pdoc, .pdoc * { transition: none !important; }
</style>"""
"""For a page of the reference: pdoc's own colours, and those that it leaves to its users."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of `wslessons html`.

    Args:
        parser: that of ``wslessons html``.
    """
    parser.add_argument("folder", metavar="DIR", type=Path, help="where to; made if there is none")


def run(args: argparse.Namespace) -> int:
    """Write all pages, print the path of the first one, and return 0.

    Raises:
        UserError: the folder can't be written, or the extra `html` is missing.
    """
    print_line(str(write(args.folder.expanduser().resolve()) / "index.html"))
    return 0


def write(folder: Path) -> Path:
    """Write the pages of all lessons and of the reference into `folder`, and return it.

    Args:
        folder: pages of the same name in it are written over; nothing else is touched.

    Returns:
        The folder.

    Raises:
        UserError: the folder can't be written, or the extra `html` is missing.
    """
    with extra("html"):
        import mmdr  # noqa: F401 -- found missing before anything is written
        import pdoc  # noqa: F401

        # Before nbconvert, which brings it along with all that it can do without.
        import_jsonschema()
        import nbconvert  # noqa: F401
    names = modules()
    shown: dict[str, list[Path]] = defaultdict(list)
    try:
        for lesson in all_lessons():
            place = lesson.relative_to(originals()).with_suffix(".html")
            page, named = _lesson(lesson, place, names)
            for name in named:
                shown[name].append(place)
            target = folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(page, encoding="utf-8")
        for picture in originals().glob("img/*"):
            (folder / "img").mkdir(exist_ok=True)
            shutil.copyfile(picture, folder / "img" / picture.name)
        _reference(folder / API, names, shown)
    except OSError as exc:
        raise UserError(f"can't write to {folder}: {(exc.strerror or str(exc)).lower()}.") from None
    return folder


def modules() -> list[str]:
    """List the modules of the package that can be imported here, but for those that run."""
    import wslessons

    found = ["wslessons"]
    for each in pkgutil.walk_packages(wslessons.__path__, "wslessons.", onerror=lambda name: None):
        if "__main__" not in each.name:
            with contextlib.suppress(MissingExtra):
                importlib.import_module(each.name)
                found.append(each.name)
    return found


def _lesson(lesson: Path, place: Path, names: Iterable[str]) -> tuple[str, set[str]]:
    """Render one lesson.

    Args:
        lesson: the notebook.
        place: where its page will be, from the folder of all pages.
        names: the modules that the reference has pages of.

    Returns:
        The page, and those modules that it names in its text or imports.
    """
    import nbformat

    notebook: Notebook = nbformat.read(lesson, as_version=4)
    up = "../" * (len(place.parts) - 1)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if text := output.get("data", {}).get("text/markdown"):
                output.data["text/markdown"] = _drawn(text)
        if cell.cell_type == "markdown":
            cell.source = _drawn(cell.source)
            # A link to another lesson, with or without a section of it.
            cell.source = re.sub(r"(\]\([^)#:\s]*)\.ipynb(?=[#)])", r"\1.html", cell.source)
            title = re.match(r"# (.*)", cell.source)
            if title and "title" not in notebook.metadata:
                notebook.metadata["title"] = title[1].replace("`", "")
    exporter = _exporter()
    page, _ = exporter.from_notebook_node(notebook)
    page = re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL)
    dark, _, _ = exporter.environment.loader.get_source(
        exporter.environment, "static/theme-dark.css"
    )
    page = page.replace("</head>", f"{HEAD.replace('DARK', dark)}</head>", 1)
    index, reference = f"{up}index.html", f"{up}{API}/wslessons.html"
    top = f'<nav class="pages"><a href="{index}">Index</a><a href="{reference}">Reference</a></nav>'
    page = re.sub(r"(<body\b[^>]*>)", lambda body: body[1] + top, page, count=1)

    known = set(names)
    named: set[str] = set()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for module, parts in IMPORTS.findall(cell.source):
                named |= {
                    module,
                    *(f"{module}.{part}" for part in re.findall(r"\w+", parts)),
                } & known
    named.discard("wslessons")

    def link(code: re.Match[str]) -> str:
        name = code[1]
        if name not in known:
            return code[0]
        named.add(name)
        return f'<a href="{up}{API}/{name.replace(".", "/")}.html">{code[0]}</a>'

    return re.sub(r"<code>(wslessons(?:\.\w+)+)</code>", link, page), named


@functools.cache
def _exporter() -> Any:
    """Make what renders notebooks, once: it compiles its templates."""
    from nbconvert import HTMLExporter

    # No address of any script: they are for formulas and widgets, of which there are none.
    addresses = dict.fromkeys(("mathjax_url", "require_js_url"), "")
    # Pygments escapes what it highlights: to clean that again takes a fifth of a page's time.
    return HTMLExporter(**addresses, filters={"clean_html": lambda element: str(element)})


def _drawn(text: str) -> str:
    """Put a picture in place of each Mermaid diagram of a Markdown text."""
    return re.sub(r"```mermaid\n(.*?)```", _diagram, text, flags=re.DOTALL)


def _diagram(block: re.Match[str]) -> str:
    """A Mermaid diagram as a picture whose alternative text is its source."""
    import mmdr

    source = block[1]
    try:
        drawn = mmdr.render(LOOK + source).svg()
    except ValueError:
        return f"```\n{source}```"
    # As wide as it is drawn, where there is room.
    width = re.search(r'viewBox="\S+ \S+ (\d+)', drawn)
    size = f' width="{width[1]}"' if width else ""
    data = base64.b64encode(drawn.encode()).decode()
    words = html.escape(" ".join(source.split()))
    return (
        f'<figure class="diagram"><img{size} alt="{words}" src="data:image/svg+xml;base64,{data}">'
        "</figure>"
    )


def _reference(folder: Path, names: list[str], shown: dict[str, list[Path]]) -> None:
    """Write the pages of the modules `names`, with links to the lessons that name them."""
    import pdoc
    import pdoc.render

    from wslessons import lab

    # Where pdoc looks for what a module imports only when it is asked for.
    vars(lab).update({name: getattr(lab, name) for name in lab.__all__})
    pdoc.render.configure(docformat="google", show_source=False, footer_text="wslessons")
    with warnings.catch_warnings():
        # Of modules that a package lists as well, and of names that only type checkers import.
        warnings.simplefilter("ignore")
        pdoc.pdoc(*names, output_directory=folder)
    for name in names:
        path = folder.joinpath(*name.split(".")).with_suffix(".html")
        up = "../" * name.count(".")
        links = [f'<a href="{up}../index.html">The lessons</a>']
        links += [_lesson_link(place, up) for place in shown.get(name, [])]
        inside = [each for each in names if each.rpartition(".")[0] == name]
        page = path.read_text(encoding="utf-8")
        if name == "wslessons":
            # The start page, whose parts pdoc lists by itself.
            page = page.replace("</section>", f"{_rooms(inside, shown)}</section>", 1)
        else:
            links += [
                f'<a href="{up}{each.replace(".", "/")}.html">{each.rpartition(".")[2]}</a>'
                for each in inside
            ]
        listed = "".join(f"<li>{link}</li>" for link in links)
        page = page.replace('<nav class="pdoc">', f'<nav class="pdoc"><ul>{listed}</ul>', 1)
        page = page.replace("</head>", f"{REFERENCE_HEAD}</head>", 1)
        # A mark for the mouse, which for others would be a link without a name.
        page = re.sub(r'(<a class="headerlink" href="#(.*?)")', r'\1 aria-label="link to \2"', page)
        path.write_text(page, encoding="utf-8")


def _lesson_link(place: Path, up: str = "") -> str:
    return f'<a href="{up}../{place.as_posix()}">{place.with_suffix("").as_posix()}</a>'


def _rooms(rooms: list[str], shown: dict[str, list[Path]]) -> str:
    """Say of each room what it is, in the first lines of its docstring, and who names it.

    Those of a lesson come first, in the lessons' order.
    """
    from pdoc.render_helpers import to_html

    every = len({place for places in shown.values() for place in places})
    rows = []
    for name in rooms:
        said = (importlib.import_module(name).__doc__ or "").partition("\n\n")[0]
        inside = [each for each in shown if f"{each}.".startswith(f"{name}.")]
        places = sorted({place for each in inside for place in shown[each]})
        of_a_lesson = 0 < len(places) <= every / 2
        lessons = ", ".join(map(_lesson_link, places))
        page = f'<a href="{name.replace(".", "/")}.html">{name.rpartition(".")[2]}</a>'
        if places and not of_a_lesson:
            lessons = "most of them"
        row = f"<tr><td>{page}</td><td>{to_html(said)}</td><td>{lessons}</td></tr>"
        rows.append((not of_a_lesson, places if of_a_lesson else [], name, row))
    head = "<tr><th>room</th><th>what it is</th><th>lessons that name it</th></tr>"
    return f'<table class="rooms">{head}{"".join(row for *_, row in sorted(rows))}</table>'
