"""What all tests share: where kernels are kept, how many examples are tried, how wide a sweep is."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / "fastpg-numba"))

HEAVY = os.environ.get("FASTPG_HEAVY") == "1"

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("dev", deadline=None)
settings.register_profile("heavy", deadline=None, max_examples=1000)
settings.load_profile("heavy" if HEAVY else "ci" if os.environ.get("CI") else "dev")


@pytest.fixture
def seeds() -> Callable[[int, int], range]:
    """`seeds(few, many)`: the seeds of a sweep, `many` of them only with FASTPG_HEAVY=1."""
    return lambda few, many: range(many if HEAVY else few)
