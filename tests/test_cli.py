"""The command line, run as people run it: what is printed, where, and how the process ends."""

import json
import os
import subprocess
import sys

import pytest

import fastpg
from fastpg.cli import main

LAKE = "frozen-lake-4x4"


def fastpg_process(*arguments, environment=None, code=None):
    """A finished process of the command line, or of other `code` with those arguments."""
    start = ["-m", "fastpg"] if code is None else ["-c", code]
    return subprocess.run(
        [sys.executable, "-W", "error", *start, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def run(capsys, *arguments):
    """Exit code, stdout and stderr of `main` in this process."""
    code = main(arguments)
    streams = capsys.readouterr()
    return code, streams.out, streams.err


def document(capsys, *arguments, code=0):
    """The JSON document that a command prints; stdout holds nothing else."""
    found, out, err = run(capsys, *arguments, "--json")
    assert (found, err) == (code, "")
    return json.loads(out, parse_constant=pytest.fail)


# Success


def test_version_and_help(capsys):
    assert run(capsys, "--version") == (0, f"fastpg {fastpg.__version__}\n", "")
    code, out, err = run(capsys, "--help")
    assert (code, err) == (0, "")
    assert all(verb in out for verb in ("evaluate", "crosscheck", "problems"))
    assert all(len(row) <= 80 for row in out.splitlines())


def test_help_loads_no_numerical_package():
    stub = """
import sys, types
package = types.ModuleType("fastpg")
package.__path__ = [sys.argv.pop(1)]
sys.modules["fastpg"] = package
from fastpg.cli import main
assert main(["--help"]) == 0
print([name for name in ("numpy", "scipy", "numba", "rich", "matplotlib", "gymnasium") if name in sys.modules])
"""
    done = fastpg_process(fastpg.__path__[0], code=stub)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_the_module_is_the_command():
    done = fastpg_process("evaluate", "chain")
    assert done.returncode == 0, done.stderr
    assert "expected return  130.018625312" in done.stdout
    assert not done.stderr


def test_problems_lists_the_catalogue(capsys):
    code, out, _ = run(capsys, "problems")
    assert code == 0
    assert [row.split()[0] for row in out.splitlines()[2:]] == list(fastpg.problems.CATALOGUE)
    listed = document(capsys, "problems")
    assert {row["name"]: row["states"] for row in listed}["cliff-walking"] == 48
    assert all(set(row) >= {"name", "states", "actions", "discount", "summary"} for row in listed)


def test_evaluate_gives_every_array(capsys):
    found = document(capsys, "evaluate", LAKE, "--discount", "0.9", "--policy", "random", "--seed", "3")
    mdp = fastpg.problems.find(LAKE).make(discount=0.9)
    evaluation = fastpg.evaluate(mdp, fastpg.random(mdp, rng=3))
    for name in ("value", "action_value", "advantage", "occupancy", "visitation", "expected_return"):
        expected = getattr(evaluation, name)
        assert found[name] == (expected if isinstance(expected, float) else expected.tolist())
    assert found["gradient"] == fastpg.policy_gradient(evaluation).tolist()
    assert (found["states"], found["discount"], found["policy"], found["horizon"]) == (16, 0.9, "random", None)
    assert found["error"]["gradient"] == evaluation.error.gradient.tolist()
    assert found["underflowed"] == 0
    assert found["error"]["expected_return"] == evaluation.error.expected_return


def _uniform_lake():
    mdp = fastpg.problems.find(LAKE).make()
    return mdp, fastpg.uniform(mdp)


def test_evaluate_stops_after_the_horizon(capsys):
    found = document(capsys, "evaluate", LAKE, "--horizon", "7")
    assert found["horizon"] == 7
    assert len(found["value"]) == 8
    error = fastpg.evaluate(*_uniform_lake(), horizon=7).error
    assert found["error"]["value"] == error.value.tolist()
    assert found["error"]["visitation"] == error.visitation.tolist()
    code, out, _ = run(capsys, "evaluate", LAKE, "--horizon", "7")
    assert code == 0
    assert "7 steps" in out
    assert "error at most" in out


def test_evaluate_counts_the_signs_that_are_not_certain(capsys):
    """In three steps nothing on the lake reaches the goal but from its neighbours."""
    uncertain = ~fastpg.evaluate(*_uniform_lake(), horizon=3).error.certain_signs
    _, out, _ = run(capsys, "evaluate", LAKE, "--horizon", "3")
    assert uncertain.any()
    assert f"uncertain signs  {uncertain.sum()} of 64 gradient entries" in out
    assert "uncertain signs" not in run(capsys, "evaluate", LAKE)[1]


def test_values_that_do_not_exist_are_null(capsys, monkeypatch):
    def trap():
        laws = [[[0, 1, 0]], [[0, 0, 0]], [[0, 0, 1]]]
        return fastpg.MDP(laws, [1.0, 0.0, 1.0], 1.0, 0, terminal=[False, True, False])

    problem = fastpg.problems.Problem("trap", "a state that never ends", trap)
    monkeypatch.setitem(fastpg.problems.CATALOGUE, "trap", problem)
    assert document(capsys, "evaluate", "trap")["value"] == [1.0, 0.0, None]
    code, out, _ = run(capsys, "evaluate", "trap")
    assert code == 0
    assert "nan" not in out


def test_large_models_show_the_states_visited_most(capsys):
    code, out, _ = run(capsys, "evaluate", "cliff-walking")
    assert code == 0
    assert "20 of 48 states" in out
    body = out.split("───\n")[-1].splitlines()
    visitation = [float(row.split()[5]) for row in body]
    assert len(body) == 20
    assert visitation == sorted(visitation, reverse=True)


def test_problems_of_gymnasium(capsys):
    pytest.importorskip("gymnasium")
    found = document(capsys, "evaluate", "gymnasium:FrozenLake-v1")
    assert found["expected_return"] == pytest.approx(document(capsys, "evaluate", LAKE)["expected_return"])
    code, out, _ = run(capsys, "evaluate", "gymnasium:CliffWalking-v1", "--discount", "0.9")
    assert code == 0
    assert "row  column" in out


def test_crosscheck_in_full(capsys):
    found = document(capsys, "crosscheck", LAKE, "-n", "2e5", "--seed", "5", "--threads", "2")
    assert found["agrees"]
    assert [line["estimator"] for line in found["lines"]] == [
        "TotalReturn",
        "RewardToGo",
        "RewardToGo - V",
        "RewardToGo",
    ]
    assert [line["horizon"] for line in found["lines"]] == ["geometric", "geometric", "geometric", 100]
    assert found["false_alarm_of_a_line"] == found["false_alarm"] / 4
    assert all(line["trajectories"] == 200_000 and line["steps_a_second"] > 0 for line in found["lines"])
    mdp = fastpg.problems.find(LAKE).make()
    policy = fastpg.uniform(mdp)
    first = fastpg.crosscheck(mdp, policy, fastpg.TotalReturn(), n=200_000, horizon="geometric", rng=5)
    assert found["lines"][0]["p_value"] == first.p_value
    assert found["lines"][0]["mean"] == first.estimate.mean.tolist()
    assert found["exact"][1]["expected_return"] == fastpg.evaluate(mdp, policy, horizon=100).expected_return
    assert len({line["p_value"] for line in found["lines"]}) == 4


def test_crosscheck_to_the_end_at_discount_one(capsys):
    found = document(capsys, "crosscheck", "short-corridor", "--horizon", "geometric", "-n", "100_000")
    assert found["agrees"]
    assert found["exact"][0]["expected_return"] == pytest.approx(-12.0)
    assert len(found["lines"]) == 3


@pytest.mark.parametrize("columns", ["80", None])
def test_the_table_fits(columns):
    done = fastpg_process("crosscheck", LAKE, "-n", "1e5", environment={"COLUMNS": columns} if columns else None)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert max(map(len, done.stdout.splitlines())) <= (80 if columns else 100)
    assert "…" not in done.stdout
    assert "\x1b" not in done.stdout
    assert "expected return" in done.stdout.split("estimator")[0]
    assert "tested at 2.5e-05" in done.stdout
    assert done.stdout.rstrip().endswith("Sampled and exact gradients agree on all 4 lines.")


# Failure


ALTERED = """
import importlib, sys
import numpy as np
import fastpg
from fastpg.cli import main

module = importlib.import_module("fastpg.crosscheck")
sample = module.estimate_gradient

def altered(mdp, *arguments, **options):
    transition = np.array(mdp.transition)
    state, action, onward, back = 2, 1, 3, 1
    assert transition[state, action, onward] > 0.3 and transition[state, action, back] > 0.3
    slip = float(sys.argv[1]) * transition[state, action, back]
    transition[state, action, onward] += slip
    transition[state, action, back] -= slip
    twin = fastpg.MDP(transition, mdp.reward, mdp.discount, mdp.start, terminal=mdp.terminal)
    return sample(twin, *arguments, **options)

module.estimate_gradient = altered
sys.exit(main(["crosscheck", "frozen-lake-8x8"]))
"""


@pytest.mark.parametrize(("slip", "code"), [("1", 1), ("0", 0)])
def test_one_altered_transition_is_found(slip, code):
    """Down in cell (0, 2) slips right instead of left: the gradient changes by 0.37 of its length."""
    done = fastpg_process(slip, code=ALTERED)
    assert done.returncode == code, done.stdout + done.stderr
    assert ("disagrees" in done.stdout) == bool(code)
    assert ("worst entry" in done.stdout) == bool(code)


def test_too_few_trajectories_are_undecided(capsys):
    code, out, _ = run(capsys, "crosscheck", "frozen-lake-8x8", "-n", "100", "--horizon", "50")
    assert code == 1
    assert "undecided" in out
    assert "try -n " in out
    found = document(capsys, "crosscheck", "frozen-lake-8x8", "-n", "100", "--horizon", "50", code=1)
    assert not found["agrees"]
    assert found["lines"][0]["p_value"] is None


BAD = [
    ([], "VERB"),
    (["evalute", "chain"], "evalute"),
    (["evaluate"], "PROBLEM"),
    (["evaluate", "frozen-lake-9x9"], "did you mean 'frozen-lake-8x8'?"),
    (["evaluate", "Taxi-v4"], "gymnasium:Taxi-v4"),
    (["evaluate", "gymnasium:FrozenLak-v1"], "Did you mean: `FrozenLake`?"),
    (["evaluate", "gymnasium:CartPole-v1"], "CartPole"),
    (["evaluate", "gymnasium:"], "gymnasium"),
    (["evaluate", "chain", "--discount", "2"], "number in [0, 1] but is '2'"),
    (["evaluate", "chain", "--discount", "nan"], "'nan'"),
    (["evaluate", "chain", "--discount", "1"], "at discount 1"),
    (["evaluate", "chain", "--horizon", "0"], "positive integer but is '0'"),
    (["evaluate", "chain", "--horizon", "geometric"], "positive integer but is 'geometric'"),
    (["evaluate", "chain", "--horizon", "1e15"], "not enough memory"),
    (["evaluate", "chain", "--policy", "greedy"], "greedy"),
    (["evaluate", "chain", "--seed", "-1"], "non-negative integer but is '-1'"),
    (["evaluate", "chain", "--disc", "0.5"], "--disc"),
    (["evaluate", "chain", "--plot", "picture.jpg"], "'picture.jpg'"),
    (["evaluate", "chain", "--plot", "nowhere/picture.png"], "'nowhere'"),
    (["crosscheck", "chain", "-n", "2.5"], "'2.5'"),
    (["crosscheck", "chain", "-n", "inf"], "'inf'"),
    (["crosscheck", "chain", "-n", "1e16"], "1 to 1e15"),
    (["crosscheck", "chain", "-n", "many"], "'many'"),
    (["crosscheck", "chain", "--horizon", "soon"], "'geometric' but is 'soon'"),
    (["crosscheck", "chain", "--threads", "0"], "positive integer but is '0'"),
    (["crosscheck", "chain", "--false-alarm", "1"], "between 0 and 1 but is '1'"),
    (["crosscheck", "two-state", "--discount", "1"], "at discount 1"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(arguments) or "-" for arguments, _ in BAD])
def test_bad_input_is_one_line(capsys, arguments, words):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("fastpg: error: ")
    assert err.count("\n") == 1
    assert words in err


def test_bad_input_ends_the_process_with_2():
    done = fastpg_process("evaluate", "frozen-lake-9x9")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fastpg: error: no problem is named 'frozen-lake-9x9'")


def without(*packages):
    """Code that runs the command line where `packages` are not installed."""
    return f"""
import sys
sys.modules.update(dict.fromkeys({packages!r}))
from fastpg.cli import main
sys.exit(main())
"""


def test_without_the_extra_documents_work_and_tables_say_what_is_missing(tmp_path):
    bare = without("rich", "rich.console", "rich.progress", "matplotlib", "matplotlib.figure", "gymnasium")
    done = fastpg_process("crosscheck", "chain", "-n", "1e4", "--horizon", "5", "--json", code=bare)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["agrees"]
    for arguments in (
        ["problems"],
        ["evaluate", "chain"],
        ["evaluate", "chain", "--json", "--plot", str(tmp_path / "chain.png")],
        ["evaluate", "gymnasium:Taxi-v4", "--json"],
    ):
        done = fastpg_process(*arguments, code=bare)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "pip install 'fastpg[cli]'" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals and pipes of POSIX")
def test_an_interrupt_is_one_line():
    # The process interrupts itself once it samples; a parent may have left the signal ignored.
    code = """
import os, signal, sys, threading
from fastpg.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT)).start()
sys.exit(main(["crosscheck", "chain", "-n", "1e12"]))
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    out, err = process.stdout, process.stderr
    assert (process.returncode, out, err) == (130, "", "fastpg: interrupted\n")


@pytest.mark.skipif(os.name == "nt", reason="signals and pipes of POSIX")
@pytest.mark.parametrize("arguments", [["problems"], ["--help"], ["evaluate", "garnet", "--json"]])
def test_a_closed_pipe_is_quiet(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "fastpg", *arguments], stdout=closed, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(os.name == "nt", reason="descriptors of POSIX")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["evaluate", "chain"], 0),
        (["evaluate", "chain", "--json"], 0),
        (["--help"], 0),
        (["crosscheck", "two-state", "-n", "1e5", "--horizon", "5"], 0),
        (["evaluate", "chian"], 2),
    ],
)
def test_a_stream_closed_from_the_start_changes_nothing_else(arguments, code, stream):
    close = {"stdout": ">&-", "stderr": "2>&-"}[stream]
    shell = ["sh", "-c", f'exec "$@" {close}', "sh", sys.executable, "-m", "fastpg", *arguments]
    done = subprocess.run(shell, capture_output=True, check=False, text=True)
    other = done.stderr if stream == "stdout" else done.stdout
    assert done.returncode == code, other
    assert "Traceback" not in other
    assert "error:" not in (other if stream == "stderr" or code == 0 else "")


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="needs /proc")
def test_a_plot_that_cannot_be_opened_is_refused_before_the_work(capsys, monkeypatch):
    monkeypatch.setattr("fastpg.evaluation.evaluate", None)
    code, out, err = run(capsys, "evaluate", "chain", "--plot", "/proc/x.png")
    assert (code, out) == (2, "")
    assert err == (
        "fastpg: error: plot must be a file that can be written but '/proc/x.png' is not: No such file or directory\n"
    )


def test_asking_whether_a_plot_can_be_written_leaves_no_trace(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    fresh, kept = tmp_path / "fresh.png", tmp_path / "kept.png"
    kept.write_bytes(b"kept")
    for path in (fresh, kept):
        assert run(capsys, "evaluate", "chain", "--discount", "1", "--plot", str(path))[0] == 2
    assert not fresh.exists()
    assert kept.read_bytes() == b"kept"


def test_the_legend_says_how_trajectories_end(capsys):
    arguments = ["crosscheck", "short-corridor", "--horizon", "geometric", "-n", "1e5"]
    _, out, _ = run(capsys, *arguments)
    assert "geom.: runs to the end, as nothing is discounted (infinite horizon)." in out
    assert "1 - discount" not in out
    _, out, _ = run(capsys, *arguments, "--discount", "0.9")
    assert "geom.: ends after each step with probability 1 - discount (infinite horizon)." in out


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fastpg", "problems"], stdout=full, stderr=subprocess.PIPE, check=False, text=True
        )
    assert done.returncode == 2
    assert done.stderr == "fastpg: error: cannot write the output: No space left on device\n"
