"""Run `wslessons` commands as a user's shell would."""

from pathlib import Path

import pytest

from wslessons.lab.commands import run, serving

__all__ = ["own_jupyter", "run", "serving"]


def own_jupyter(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them, and the tests out of those.

    Args:
        folder: where Jupyter's folders are from now on, each named as its variable, in lower case.
        patch: sets the variables.
    """
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        patch.setenv(name, str(folder / name.lower()))
    for name in ("JUPYTER_CONFIG_PATH", "JUPYTER_TOKEN", "JUPYTERLAB_SETTINGS_DIR"):
        patch.delenv(name, raising=False)
