"""Which notebooks there are, where they lie, and which one a word means."""

from __future__ import annotations

from pathlib import Path

from wslessons.errors import UserError

__all__ = [
    "WORK_FOLDER",
    "all_lessons",
    "find",
    "lessons",
    "originals",
    "repository",
    "work_folder",
]

PACKAGE = Path(__file__).resolve().parents[1]
WORK_FOLDER = "wslessons-lessons"
INDEX = "index"


def repository() -> Path | None:
    """The clone that this package is imported from, or None when it was installed from a wheel."""
    root = PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "notebooks").is_dir() else None


def originals() -> Path:
    """The folder of the notebooks that came with the package."""
    root = repository()
    return root / "notebooks" if root else PACKAGE / "notebooks"


def lessons() -> list[Path]:
    """List the numbered lessons that came with the package, in order.

    Raises:
        UserError: the install holds none.
    """
    if found := sorted(originals().glob("[0-9][0-9]_*.ipynb")):
        return found
    raise UserError("this install holds no lessons: install wslessons again.")


def all_lessons() -> list[Path]:
    """List all notebooks: the lessons, what stands beside them, and the deeper ones.

    Raises:
        UserError: the install holds no lessons.
    """
    main, folder = lessons(), originals()
    others = sorted(set(folder.glob("*.ipynb")) - set(main))
    return [*main, *others, *sorted((folder / "deeper").glob("*.ipynb"))]


def find(word: str | None) -> Path:
    """Return the notebook that `word` means.

    Args:
        word: a number, a word of the name, or a file name; ``deeper/2`` is the one that goes
            deeper. A word may be cut short as long as it fits one notebook only: "heart" finds
            05_heartbeats. None means the index.

    Returns:
        Its path among the originals.

    Raises:
        UserError: no notebook, or more than one, fits; the exit code is 2.
    """
    known = all_lessons()
    # Both separators, since a path typed by completion ends in the name on every system.
    *folders, last = (INDEX if word is None else word).lower().replace("\\", "/").split("/")
    deeper, stem = "deeper" in folders, last.removesuffix(".ipynb")
    rules = (
        lambda name: stem == name,
        lambda name: stem.isdecimal() and name[:2].isdecimal() and int(stem) == int(name[:2]),
        lambda name: stem in _words(name),
        lambda name: stem and any(part.startswith(stem) for part in _words(name)),
    )
    candidates = [path for path in known if (path.parent != originals()) == deeper]
    for fits in rules:
        matches = [path for path in candidates if fits(path.stem.lower())]
        if len(matches) == 1:
            return matches[0]
        if matches:
            folder = "deeper/" if deeper else ""
            names = " and ".join(f"{folder}{path.stem}" for path in matches)
            raise UserError(f"{word!r} fits {names}: say which one.", exit_code=2)
    if word is None:
        return known[0]
    names = [path.stem.replace("_", " ", 1) for path in known if path.parent == originals()]
    raise UserError(f"there is no lesson {word!r}: choose one of {', '.join(names)}.", exit_code=2)


def _words(name: str) -> list[str]:
    return [word for word in name.split("_") if not word.isdecimal()]


def work_folder(chosen: Path | None = None) -> Path:
    """Return the folder for the learner's copies: `chosen`, or else the one that serves best.

    That is the current folder if it holds copies already, the clone's root joined with
    `WORK_FOLDER` inside a clone (git ignores it, so saving a lesson never makes the clone dirty
    and never breaks its recorded outputs), and `WORK_FOLDER` in the current folder elsewhere.

    Args:
        chosen: what ``--dir`` says.

    Returns:
        The folder, which need not be there yet.
    """
    if chosen is not None:
        return chosen.expanduser().resolve()
    here = Path.cwd()
    if here != originals() and any((here / lesson.name).exists() for lesson in lessons()):
        return here
    root = repository()
    if root is not None and (here == root or root in here.parents):
        return root / WORK_FOLDER
    return here / WORK_FOLDER
