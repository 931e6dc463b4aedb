"""Warming up compiles every kernel."""

import re
import subprocess
import sys
from pathlib import Path

import fastpg

CODE = """
import importlib, inspect, pkgutil
import fastpg.kernels
from fastpg import warmup

for _, work in warmup.pieces():
    work()
for module in pkgutil.iter_modules(fastpg.kernels.__path__):
    module = importlib.import_module(f"fastpg.kernels.{module.name}")
    for name, kernel in vars(module).items():
        if hasattr(kernel, "py_func") and kernel.py_func.__module__ == module.__name__:
            print(name, len(kernel.signatures))
"""


def test_every_kernel_that_is_called_from_python_is_compiled_for_one_kind_of_argument():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    signatures = {line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines()}
    assert len(signatures) > 40
    sources = "".join(path.read_text() for path in Path(fastpg.__file__).parent.rglob("*.py"))
    called = set(re.findall(r"\bkernels?\.(\w+)\(", sources)) & set(signatures)
    assert len(called) > 25
    assert [kernel for kernel in called if signatures[kernel] == 0] == []
