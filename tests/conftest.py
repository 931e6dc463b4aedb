"""Numba's disk cache does not see edits in files that a kernel calls into, so the tests key it by their content."""

import hashlib
import os
import tempfile
from pathlib import Path

from hypothesis import settings

KERNELS = Path(__file__).parent.parent / "fastpg" / "kernels"
digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(KERNELS.glob("*.py")))).hexdigest()[:16]
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"fastpg-numba-{digest}"))

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("dev", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
