"""`wslessons lab`: which lesson, whose copy, and a real JupyterLab from start to end."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import Request, urlopen

import psutil
import pytest
import shell
from websockets import connect

from wslessons import cli
from wslessons.errors import UserError
from wslessons.lab import launch, lessons

INDEX = "index.ipynb"
NAMES = ["00_why_websockets.ipynb", "01_echo.ipynb", "05_heartbeats.ipynb", "06_scaling.ipynb"]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of the project with four lessons, and the current folder."""
    root = tmp_path / "clone"
    (root / "notebooks").mkdir(parents=True)
    (root / "pyproject.toml").touch()
    for name in NAMES:
        (root / "notebooks" / name).write_text('{"cells": []}')
    monkeypatch.setattr(lessons, "PACKAGE", root / "wslessons")
    monkeypatch.chdir(root)
    return root


@pytest.mark.parametrize(
    "word",
    [
        "5",
        "05",
        "heartbeats",
        "heart",
        "HEARTBEATS",
        "05_heartbeats",
        "notebooks/05_heartbeats.ipynb",
    ],
)
def test_lesson_is_found_by_number_word_or_file_name(clone: Path, word: str) -> None:
    """Whatever a learner may call a lesson means that lesson."""
    assert lessons.find(word).name == "05_heartbeats.ipynb"


def test_the_index_opens_when_none_is_named(clone: Path) -> None:
    """Without an index it is the first lesson."""
    assert lessons.find(None).name == NAMES[0]
    (clone / "notebooks" / INDEX).touch()
    assert lessons.find(None).name == INDEX
    assert [path.name for path in lessons.all_lessons()] == [*NAMES, INDEX]


@pytest.mark.parametrize("word", ["deeper/1", "deeper/echo", "deeper/01_echo.ipynb", "deeper\\ec"])
def test_what_goes_deeper_is_found_in_its_folder(clone: Path, word: str) -> None:
    """A lesson's number alone means the lesson."""
    deeper = clone / "notebooks" / "deeper" / NAMES[1]
    deeper.parent.mkdir()
    deeper.touch()
    assert lessons.find(word) == deeper
    assert lessons.find("1") == clone / "notebooks" / NAMES[1]


def test_word_that_fits_two_pages_is_answered_with_both(clone: Path) -> None:
    """Nobody has to guess what the other one is called."""
    deeper = clone / "notebooks" / "deeper"
    deeper.mkdir()
    for name in ("04_web.ipynb", "04_running.ipynb"):
        (deeper / name).touch()
    with pytest.raises(UserError) as caught:
        lessons.find("deeper/4")
    assert str(caught.value) == (
        "'deeper/4' fits deeper/04_running and deeper/04_web: say which one."
    )
    assert lessons.find("deeper/web") == deeper / "04_web.ipynb"


@pytest.mark.parametrize("word", ["7", "tcp", "", "_", "01_echo.py", "²"])
def test_unknown_lesson_is_refused_with_the_list(clone: Path, word: str) -> None:
    """The sentence names all lessons, and the exit code is argparse's."""
    with pytest.raises(UserError, match="00 why_websockets, 01 echo, 05 heartbeats") as caught:
        lessons.find(word)
    assert caught.value.exit_code == 2


def test_lessons_of_a_wheel_lie_inside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a clone around it the package brings its own lessons, or says that it can't."""
    monkeypatch.setattr(lessons, "PACKAGE", tmp_path / "wslessons")
    with pytest.raises(UserError, match="holds no lessons"):
        lessons.lessons()
    inside = tmp_path / "wslessons" / "notebooks"
    inside.mkdir(parents=True)
    (inside / NAMES[1]).touch()
    assert lessons.lessons() == [inside / NAMES[1]]


def test_copies_go_where_they_serve_a_learner(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One work folder for a whole clone; elsewhere one in the current folder, never a second."""
    assert lessons.work_folder() == clone / lessons.WORK_FOLDER
    monkeypatch.chdir(clone / "notebooks")
    assert lessons.work_folder() == clone / lessons.WORK_FOLDER
    monkeypatch.chdir(tmp_path)
    assert lessons.work_folder() == tmp_path / lessons.WORK_FOLDER
    lessons.work_folder().mkdir()
    (lessons.work_folder() / NAMES[0]).touch()
    monkeypatch.chdir(lessons.work_folder())
    assert lessons.work_folder() == tmp_path / lessons.WORK_FOLDER
    assert lessons.work_folder(Path("mine")) == tmp_path / lessons.WORK_FOLDER / "mine"


@pytest.mark.parametrize("missing", ["jupyterlab", "ipykernel", "ipywidgets"])
def test_missing_extra_is_named(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without Jupyter the command says which extra to install."""
    monkeypatch.setitem(sys.modules, missing, None)
    for name in list(sys.modules):
        if name.startswith(f"{missing}."):
            monkeypatch.delitem(sys.modules, name)
    assert cli.main(["lab"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "pip install 'wslessons[lab]'" in error


@pytest.mark.parametrize(("user", "allowed"), [(0, True), (1000, False)])
def test_root_is_allowed_only_when_it_is_root(
    user: int, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learner in a container is root; for anybody else Jupyter's own guard stays."""
    monkeypatch.setattr(launch.os, "geteuid", lambda: user, raising=False)
    args = argparse.Namespace(no_browser=False, port=None)
    arguments = launch.jupyter_arguments(args, Path(), "lab", "token")
    assert ("--ServerApp.allow_root=True" in arguments) is allowed


def test_jupyterlab_comes_after_what_its_start_can_do_without(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imported first it compiles grammars for more than a second, which no notebook needs."""
    order: list[str] = []
    monkeypatch.setattr(launch, "need", lambda module, extra: order.append(module))
    monkeypatch.setattr(launch, "import_jsonschema", lambda: order.append("jsonschema"))

    def stop(folder: Path) -> None:
        raise UserError("far enough")

    monkeypatch.setattr(launch, "_running_in", stop)
    assert cli.main(["lab"]) == 1
    assert sorted(order) == ["ipykernel", "ipywidgets", "jsonschema", "jupyterlab"]
    assert order.index("jsonschema") < order.index("jupyterlab")


async def test_unknown_lesson_is_one_line_and_exit_code_2() -> None:
    """A slip in the lesson's name starts nothing."""
    code, out, errors = await shell.run("lab", "nonsense", "--no-browser")
    assert (code, out) == (2, "")
    assert errors.startswith("wslessons: there is no lesson 'nonsense': choose one of ")
    assert errors.count("\n") == 1


async def test_port_in_use_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    """JupyterLab must not move to another port than the one asked for."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, out, errors = await shell.run(
            "lab", "--no-browser", "--port", port, "--dir", str(tmp_path)
        )
    assert (code, out) == (1, "")
    assert errors.splitlines()[-1].startswith(f"wslessons: port {port} is in use: ")
    assert "Traceback" not in errors


@pytest.fixture
def own_jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them, and the tests out of those."""
    shell.own_jupyter(tmp_path, monkeypatch)


async def ask(address: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """GET `path` from the JupyterLab at `address`, or POST `body` to it; return the answer."""
    parts = urlsplit(address)
    request = Request(
        f"{parts.scheme}://{parts.netloc}/{path}",
        data=json.dumps(body).encode() if body else None,
        headers={"Authorization": f"token {parse_qs(parts.query)['token'][0]}"},
    )

    def fetch() -> Any:
        with urlopen(request, timeout=30) as response:
            text = response.read().decode()
            return json.loads(text) if "json" in response.headers.get_content_type() else text

    return await asyncio.to_thread(fetch)


async def kernel_ready(address: str, kernel: str) -> None:
    """Wait until a kernel of the JupyterLab at `address` has started."""
    parts = urlsplit(address)
    url = f"ws://{parts.netloc}/api/kernels/{kernel}/channels?{parts.query}"
    async with connect(url, proxy=None) as websocket:
        async for message in websocket:
            if json.loads(message)["content"].get("execution_state") == "idle":
                return


@pytest.mark.parametrize(("number", "others"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
async def test_jupyterlab_opens_the_lesson_and_ends_with_its_kernels(
    number: signal.Signals, others: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Start, look at the lesson and the settings, start a kernel, stop: nothing is left.

    Nor does anything warn where Voila reads each setting.
    """
    shell.own_jupyter(tmp_path, monkeypatch, others=others)
    folder = tmp_path / "work folder"
    async with shell.serving(
        "lab", "echo", "--no-browser", "--port", "0", "--dir", str(folder)
    ) as lab:
        assert urlsplit(lab.url).path == "/lab/workspaces/wslessons/tree/01_echo.ipynb"

        lesson = await ask(lab.url, "api/contents/01_echo.ipynb")
        assert (folder / "01_echo.ipynb").exists()
        code = [cell for cell in lesson["content"]["cells"] if cell["cell_type"] == "code"]
        assert all(cell["metadata"]["trusted"] for cell in code)

        plugin = "lab/api/settings/@jupyterlab/apputils-extension"
        news = await ask(lab.url, f"{plugin}:notification")
        assert news["schema"]["properties"]["fetchNews"]["default"] == "false"
        kernels = await ask(lab.url, f"{plugin}:kernels-settings")
        assert kernels["schema"]["properties"]["commsOverSubshells"]["default"] == "disabled"
        # Else each page that opens has Node look whether JupyterLab should be built anew.
        assert '"buildCheck": false' in await ask(lab.url, "lab")

        session = {
            "path": "01_echo.ipynb",
            "name": "",
            "type": "notebook",
            "kernel": {"name": "python3"},
        }
        await kernel_ready(lab.url, (await ask(lab.url, "api/sessions", session))["kernel"]["id"])
        children = psutil.Process(lab.process.pid).children(recursive=True)
        assert any("ipykernel_launcher" in child.cmdline() for child in children)
        code, errors = await lab.end(number)
    assert code == 0
    assert "Traceback" not in errors
    assert "deprecated" not in errors
    assert psutil.wait_procs(children, timeout=10)[1] == []


@pytest.mark.timeout(200)
@pytest.mark.usefixtures("own_jupyter")
async def test_a_second_one_in_the_folder_opens_the_first(tmp_path: Path) -> None:
    """It says where the first one runs, on the lesson that was asked for, and ends."""
    words = ["--no-browser", "--port", "0", "--dir", str(tmp_path / "work")]
    async with shell.serving("lab", *words) as first:
        for lesson in ("deeper/1",):
            code, out, errors = await shell.run("lab", lesson, *words)
            assert (code, errors.count("\n")) == (0, 1)
            assert "runs in this folder already" in errors
            there, here = urlsplit(first.url), urlsplit(out.strip())
            assert (there.netloc, there.query) == (here.netloc, here.query)
            path = lessons.find(lesson).relative_to(lessons.originals()).as_posix()
            assert here.path == f"/lab/workspaces/wslessons/tree/{path}"
            assert (await ask(out, f"api/contents/{path}"))["type"] == "notebook"
        await first.end(signal.SIGINT)
    # What Jupyter notes of a server outlives it when it is killed; nobody is sent there.
    notes = tmp_path / "jupyter_runtime_dir" / "jpserver-1.json"
    notes.write_text(
        json.dumps({"pid": 1, "root_dir": str(tmp_path / "work"), "url": "http://127.0.0.1:1/"})
    )
    async with shell.serving("lab", *words) as another:
        assert another.url.startswith("http://")
        await another.end(signal.SIGINT)


async def test_a_number_alone_opens_that_lesson(monkeypatch: pytest.MonkeyPatch) -> None:
    """`wslessons 2` is `wslessons lab 2`, and `wslessons` is `wslessons lab`."""
    seen: list[str | None] = []
    monkeypatch.setattr(launch, "run", lambda args: seen.append(args.lesson) or 0)
    for words in ([], ["2"], ["2", "--no-browser"], ["lab", "chat"]):
        assert cli.main(words) == 0
    assert seen == [None, "2", "2", "chat"]


@pytest.mark.usefixtures("own_jupyter")
async def test_what_a_user_set_in_jupyter_stays_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our settings are defaults: a folder that is on JUPYTER_CONFIG_PATH already comes first."""
    mine = tmp_path / "mine" / "labconfig"
    mine.mkdir(parents=True)
    plugin = "@jupyterlab/apputils-extension:notification"
    (mine / "default_setting_overrides.json").write_text(
        json.dumps({plugin: {"fetchNews": "true"}})
    )
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(mine.parent))
    async with shell.serving(
        "lab", "--no-browser", "--port", "0", "--dir", str(tmp_path / "work")
    ) as lab:
        news = await ask(lab.url, f"lab/api/settings/{plugin}")
        assert news["schema"]["properties"]["fetchNews"]["default"] == "true"
        assert news["schema"]["properties"]["checkForUpdates"]["default"] is False
        await lab.end(signal.SIGINT)
