"""What tests of exercises share."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def forgotten_coroutines_end_here() -> Iterator[None]:
    """Collect what a forgotten await leaves behind, before another module is blamed for it."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        gc.collect()
