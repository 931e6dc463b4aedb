"""A run of the benchmark survives its contenders, and its report tells what was found."""

import json
import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import bench.__main__ as program
from bench import report, values
from bench.apart import Apart
from bench.harness import Case, later, measured
from bench.limits import exponent
from bench.picture import draw
from bench.sparse import chain_of, garnet_model, local_model
from fastpg import evaluate

RESULTS = json.loads((Path(program.__file__).parent / "results.json").read_text())


def result(case, warm, **others):
    return {"case": case, "warm": warm, "failed": {}, **others}


def fails(problem):
    def run(*_):
        raise problem

    return run


def missing():
    import a_package_that_no_one_has  # noqa: F401

    return np.ones


def test_a_contender_that_fails_or_differs_is_left_out_and_told():
    answer = np.array([1.0, -2.0])
    contenders = {
        "fastpg": lambda: answer,
        "right": lambda: answer * (1 + 1e-9),
        "wrong": lambda: answer * (1 + 1e-7),
        "nan": lambda: answer * np.nan,
        "raises": fails(ValueError("no")),
        "exits": fails(SystemExit("bad input")),
        "absent": later(missing),
    }
    found = measured(Case("a case", contenders, tolerance=1e-8, repeats=1))
    assert list(found["warm"]) == ["fastpg", "right"]
    assert found["failed"] == {
        "absent": "not installed",
        "exits": "SystemExit: bad input",
        "raises": "ValueError: no",
        "wrong": "differs from fastpg by 1e-07 of the largest entry",
        "nan": "differs from fastpg by nan of the largest entry",
    }
    assert report.wrong(found)
    [row] = report.rows({"results": [found], "limits": RESULTS["limits"]})
    assert "absent" not in row.failed


def test_a_case_that_fastpg_cannot_solve_has_no_figures_and_is_told():
    found = measured(Case("a case", {"fastpg": fails(ValueError("no")), "right": lambda: np.ones(1)}))
    assert found["warm"] == {}
    assert found["failed"] == {"fastpg": "ValueError: no"}
    assert report.wrong(found)
    assert report.rows({"results": [found], "limits": RESULTS["limits"]}) == []


def test_a_contender_apart_has_limits_and_its_peak_of_memory():
    found = Apart(partial, (np.ones, 30_000_000)).found()
    assert (found.result == 1).all()
    assert 240e6 < found.peak_bytes < 1e9
    with pytest.raises(TimeoutError, match=r"did not finish in 0\.2 s"):
        Apart(partial, (time.sleep, 3.0), seconds=0.2).found()
    with pytest.raises(RuntimeError, match="out of memory at 3 GiB"):
        Apart(partial, (np.ones, 10**9), gigabytes=3.0).found()
    with pytest.raises(RuntimeError, match="its process ended with code 3"):
        Apart(partial, (os._exit, 3)).found()
    with pytest.raises(RuntimeError, match="ValueError: negative dimensions"):
        Apart(partial, (np.ones, -1)).found()


@pytest.mark.parametrize("make", [garnet_model, local_model])
@pytest.mark.parametrize("peer", [values.ours, values.quantecon_direct, values.quantecon_mpi, values.mdpsolver])
def test_packages_that_optimise_evaluate_where_there_is_one_action(make, peer):
    mdp = make(200).discounted(0.9)
    policy, chain = chain_of(mdp)
    V = evaluate(mdp, policy).value
    try:
        run = peer(chain)
    except ModuleNotFoundError as missing:
        pytest.skip(str(missing))
    for _ in range(2):
        assert np.abs(run() - V).max() <= 10 * values.ACCURACY * np.abs(V).max()


def test_values_and_visitation_agree_between_all_who_solve_for_both():
    case = values.value_cases(quick=True)[-1]
    found = measured(case, 0.0)
    assert found["failed"] == {}
    assert list(found["warm"]) == list(case.contenders) == ["fastpg", "SciPy, splu", "LAPACK, gbtrf"]


def test_figures_are_written_as_they_come_and_an_interrupt_keeps_them(tmp_path, monkeypatch, capsys):
    done = Case("done", {"fastpg": lambda: np.ones(1)}, repeats=1)
    never = Case("never", {"fastpg": fails(KeyboardInterrupt())})
    groups = {"broken": fails(ValueError("no model")), "both": lambda _: [done, never]}
    monkeypatch.setattr(program, "GROUPS", groups)
    monkeypatch.setattr(program, "machine_limits", lambda: RESULTS["limits"])
    file = tmp_path / "found.json"
    monkeypatch.setattr("sys.argv", ["bench", "--quick", "--json", str(file)])
    assert program.main() == 130
    assert [each["case"] for each in json.loads(file.read_text())["results"]] == ["done"]
    assert "broken: left out: ValueError: no model" in capsys.readouterr().err


def test_a_row_has_its_peers_by_speed_and_its_share_of_the_limit():
    rates = {"read_bytes_a_second": 1e9, "dgemm_flops": 1e12}
    cases = [
        result("reads", {"fastpg": 0.02, "fastpg, one thread": 0.03, "A": 0.06, "B": 0.05}, bytes_read=10_000_000),
        result("computes", {"fastpg": 0.5, "C": 100.0}, flops=1e11, peak_bytes={"fastpg": 3 * 2**30}),
        {**result("steps", {"fastpg": 2.0}, steps=10_000_000), "failed": {"D": "did not finish in 60 s"}},
    ]
    lines = report.table({"results": cases, "limits": rates}).splitlines()
    assert lines[2:] == [
        "| reads | 20 ms, one thread 30 ms | B: 50 ms; A: 60 ms | 2.5 | 50% |",
        "| computes | 500 ms, 3 GiB | C: 100 s | 200 | 20% |",
        "| steps | 2 s (5 M steps/s) | D: did not finish in 60 s |  |  |",
    ]


def test_blocks_of_readme_are_replaced_and_a_missing_mark_is_an_error():
    readme = "a\n<!-- bench: speed -->\nold\n<!-- end -->\nb\n"
    assert report.with_blocks(readme, {"speed": "new \\1"}) == readme.replace("old", "new \\1")
    with pytest.raises(ValueError, match="the mark 'bench: growth' once but holds it 0 times"):
        report.with_blocks(readme, {"growth": "new"})


def test_the_picture_is_drawn(tmp_path):
    draw(RESULTS, str(tmp_path / "found.png"))
    assert (tmp_path / "found.png").stat().st_size > 10_000


def test_exponents_are_those_of_the_two_largest_sizes_and_of_memory_beyond_a_process():
    points = [{"states": S, "seconds": 5.0 + S**2 / 1e6, "peak_bytes": 10**8 + S * 100} for S in (0, 10**5, 10**6)]
    assert exponent(points, "seconds") == pytest.approx(2.0, abs=1e-3)
    assert exponent(points, "peak_bytes") == pytest.approx(1.0, abs=1e-12)
    assert exponent(points[:2], "peak_bytes") is None
    assert exponent([], "seconds") is None
