"""Run `wslessons` commands as a user's shell would."""

import json
from pathlib import Path

import pytest

from wslessons.lab.commands import run, serving

__all__ = ["own_jupyter", "run", "serving"]

OTHERS = ("notebook", "notebook_shim", "voila.server_extension")
"""What other places for a lesson add to each server of Jupyter's, and to the time it starts in."""


def own_jupyter(folder: Path, patch: pytest.MonkeyPatch, *, others: bool = False) -> None:
    """Keep the settings of whoever runs the tests out of them, and the tests out of those.

    Args:
        folder: where Jupyter's folders are from now on, each named as its variable, in lower case.
        patch: sets the variables.
        others: whether JupyterLab's server serves Jupyter Notebook and Voila, too.
    """
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        patch.setenv(name, str(folder / name.lower()))
    for name in ("JUPYTER_CONFIG_PATH", "JUPYTER_TOKEN", "JUPYTERLAB_SETTINGS_DIR"):
        patch.delenv(name, raising=False)
    if not others:
        settings = folder / "jupyter_config_dir" / "jupyter_server_config.json"
        settings.parent.mkdir(exist_ok=True)
        served = {"jpserver_extensions": dict.fromkeys(OTHERS, False)}
        settings.write_text(json.dumps({"ServerApp": served}))
