"""Numba's disk cache does not see edits in files that a kernel calls into, so the tests key it by their content."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

KERNELS = Path(__file__).parent.parent / "fastpg" / "kernels"
digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(KERNELS.glob("*.py")))).hexdigest()[:16]
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"fastpg-numba-{digest}"))

HEAVY = os.environ.get("FASTPG_HEAVY") == "1"

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("dev", deadline=None)
settings.register_profile("heavy", deadline=None, max_examples=1000)
settings.load_profile("heavy" if HEAVY else "ci" if os.environ.get("CI") else "dev")


@pytest.fixture
def seeds() -> Callable[[int, int], range]:
    """`seeds(few, many)`: the seeds of a sweep, `many` of them only with FASTPG_HEAVY=1."""
    return lambda few, many: range(many if HEAVY else few)
