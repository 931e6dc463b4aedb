"""The structure of the package: who imports whom, what is documented, what is compiled and loaded."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import fastpg

ROOT = Path(fastpg.__file__).parent
MAX_LINES = 400

# Each layer may import those above it and itself; a name covers the modules below it.
LAYERS = (
    ("errors", "_version", "lazy"),
    ("validation", "kernels"),
    ("rng", "parallel"),
    ("successors",),
    ("model",),
    ("policy",),
    ("chain",),
    ("solvers", "radius"),
    ("certificate", "structure"),
    ("finite_horizon",),
    ("evaluation",),
    ("gradient", "average_reward"),
    ("fisher", "exact"),
    ("sampling",),
    ("moments", "bellman"),
    ("judgement",),
    ("verdict",),
    ("diagnosis",),
    ("crosscheck",),
    ("formats",),
    ("problems",),
    ("planning", "learning", "batch"),
    ("theory",),
    ("progress", "resolve", "documents", "lines", "warmup"),
    ("report", "plot"),
    ("plot_variance",),
    ("cli",),
    ("", "__main__", "testing"),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
FILES = sorted(path for path in ROOT.rglob("*.py"))


def module_of(path):
    """The dotted name of a file."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module):
    """The module or folder directly below fastpg that a dotted name belongs to; "" for fastpg itself."""
    return [*module.split("."), ""][1]


def is_type_checking(node):
    """Whether a statement is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def runtime_imports(node):
    """Dotted names imported anywhere below a syntax node, outside `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            names = [f"{child.module}.{alias.name}" for alias in child.names]
            yield from names if child.module == "fastpg" else [child.module]
        elif is_type_checking(child):
            for other in child.orelse:
                yield from runtime_imports(other)
        else:
            yield from runtime_imports(child)


def imports_of(path):
    """The runtime imports of a file."""
    return list(runtime_imports(ast.parse(path.read_text())))


def test_the_import_parser_sees_what_runs_and_only_that():
    source = """
from typing import TYPE_CHECKING
from fastpg import errors
import fastpg.model as m
if TYPE_CHECKING:
    from fastpg.evaluation import Evaluation
def f():
    if True:
        from fastpg.solvers.lu import LU
"""
    found = list(runtime_imports(ast.parse(source)))
    assert found == ["typing", "fastpg.errors", "fastpg.model", "fastpg.solvers.lu"]


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_nothing_imports_upwards(path):
    part = part_of(module_of(path))
    assert part in RANK, f"give {part} a layer"
    for name in imports_of(path):
        if name.split(".")[0] != "fastpg" or part_of(name) == part:
            continue
        target = part_of(name) if part_of(name) in RANK else ""
        assert RANK[target] < RANK[part], f"{module_of(path)} imports {name}"


@pytest.mark.parametrize("path", [p for p in FILES if "kernels" in p.parts], ids=module_of)
def test_kernels_import_only_numpy_numba_and_kernels(path):
    for name in imports_of(path):
        # llvmlite is the half of Numba that writes instructions.
        allowed = name.split(".")[0] in ("numpy", "numba", "llvmlite", *sys.stdlib_module_names)
        assert allowed or name.startswith("fastpg.kernels"), name


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_only_testing_imports_test_packages(path):
    if "testing" not in path.parts:
        roots = {name.split(".")[0] for name in imports_of(path)}
        assert not roots & {"hypothesis", "pytest"}
        assert not any(name.startswith("fastpg.testing") for name in imports_of(path))


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_are_short_and_say_what_they_are(path):
    text = path.read_text()
    assert len(text.splitlines()) < MAX_LINES
    assert ast.get_docstring(ast.parse(text)) or path.name == "_version.py"


def public_members(cls):
    """Methods and properties that a class of fastpg defines under a public name."""
    for name, member in vars(cls).items():
        function = getattr(member, "func", getattr(member, "fget", getattr(member, "__func__", member)))
        if not name.startswith("_") and inspect.isfunction(function):
            yield f"{cls.__name__}.{name}", function


@pytest.mark.parametrize("name", [name for name in fastpg.__all__ if not name.startswith("_")])
def test_every_public_name_is_documented(name):
    thing = getattr(fastpg, name)
    assert inspect.getdoc(thing)
    if inspect.isclass(thing):
        assert [place for place, function in public_members(thing) if not inspect.getdoc(function)] == []


def test_the_list_of_public_names_is_sorted_and_complete():
    names = [name for name in fastpg.__all__ if not name.startswith("_")]
    assert len(set(names)) == len(names)
    assert fastpg.__version__


def run(code):
    """The output of a fresh interpreter with warnings as errors."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_fastpg_loads_no_optional_package_and_no_statistics():
    optional = ("hypothesis", "pytest", "rich", "matplotlib", "gymnasium", "flint", "scipy.stats", "fastpg.testing")
    optional += ("scipy.sparse.linalg", "scipy.optimize")
    assert run(f"import fastpg, sys; print([name for name in {optional!r} if name in sys.modules])").strip() == "[]"


SCENARIO = """
import importlib, pkgutil
import numpy as np
from scipy import sparse
import fastpg
from fastpg import batch, kernels, solvers

transition = np.full((3, 2, 3), 1 / 3)
stored = sparse.csr_array(transition.reshape(6, 3))
terminal, available = [0, 0, 1], [[1, 1], [0, 1], [1, 1]]
rewards = [np.array([1.0, 2.0, 0.0]), np.ones((3, 2)) * [[1], [2], [0]], np.ones((3, 2, 3)) * [[[1]], [[2]], [[0]]]]
for P in (transition, stored):
    for reward in rewards:
        for options in ({}, {"available": available}):
            mdp = fastpg.MDP(P, reward, 0.9, terminal=terminal, **options)
            linear = fastpg.LogLinearPolicy(np.ones((3, 2, 2)), [0.0, 1.0], available=mdp.available)
            kinds = [fastpg.uniform(mdp), fastpg.random(mdp, rng=0), fastpg.DirectPolicy.random(mdp, rng=0), linear]
            for policy in kinds:
                for model in (mdp, mdp.discounted(1), mdp.restart(0)):
                    ev = fastpg.evaluate(model, policy)
                    fastpg.policy_gradient(ev), fastpg.natural_gradient(ev), fastpg.normalised_step(ev, 0.1)
                    F = fastpg.fisher_information(ev)
                    ev.error.value, ev.error.occupancy, ev.error.gradient, ev.error.expected_return
                    F.blocks, F.to_dense(), F.pinv_solve(fastpg.policy_gradient(ev)), ev.visitation
                    fastpg.evaluate(model, policy, solver=solvers.GTH()).occupancy
                    finite = fastpg.evaluate(model, policy, horizon=3)
                    fastpg.policy_gradient(finite), finite.advantage, finite.expected_return
                    bounds = finite.error
                    bounds.value, bounds.action_value, bounds.advantage, bounds.visitation, bounds.occupancy
                    bounds.expected_return, bounds.gradient, bounds.certain_signs, ev.error.certain_signs

stack = [np.stack([transition] * 2), rewards[1], 0.9, np.ones(3) / 3, np.zeros((2, 2, 1, 3, 2))]
for order in "CF":
    for writeable in (True, False):
        some = [np.array(x, order=order) for x in stack]
        for x in some:
            x.flags.writeable = writeable
        for function in (batch.evaluate, batch.policy_gradient, batch.natural_gradient, batch.fisher):
            function(*some, terminal=terminal), function(*some, terminal=np.array([terminal] * 2))

for found in pkgutil.iter_modules(kernels.__path__, "fastpg.kernels."):
    module = importlib.import_module(found.name)
    for name, kernel in vars(module).items():
        if hasattr(kernel, "py_func") and kernel.py_func.__module__ == found.name:
            print(found.name, name, len(kernel.signatures))
"""


def test_each_kernel_is_compiled_once():
    counts = [line.split() for line in run(SCENARIO).splitlines()]
    assert [line for line in counts if int(line[2]) > 1] == []
    core = [line for line in counts if line[0].removeprefix("fastpg.kernels.") in ("evaluation", "gth", "policy")]
    assert len(core) >= 9
    assert [line for line in core if int(line[2]) != 1] == []
    # What `solve` calls is compiled with it, and not where it is read from the disk.
    assert ["fastpg.kernels.batch", "solve", "1"] in counts
