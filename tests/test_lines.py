"""The lines of a cross-check that are asked for by name."""

import json
import sys

import pytest

from fastpg.cli import main
from fastpg.lines import BY_NAME, ESTIMATORS


def run(capsys, *arguments):
    """Exit code, stdout and stderr of a cross-check of the small lake."""
    code = main(["crosscheck", "frozen-lake-4x4", *arguments])
    return code, *capsys.readouterr()


def test_crosscheck_compares_the_variances_of_estimators(capsys):
    code, out, _ = run(capsys, "-n", "2e5", "--estimators", "all", "--horizon", "geometric", "--json")
    assert code == 0
    found = json.loads(out)
    assert [line["estimator"] for line in found["lines"]] == [x for x in ESTIMATORS if x not in BY_NAME]
    for line in found["lines"]:
        assert line["verdict"] == "agrees"
        assert line["fault"] is None
        if line["estimator"] == "EvolutionStrategy":
            assert line["exact_variance"] is None
        else:
            assert line["sampled_variance"] == pytest.approx(line["exact_variance"], rel=0.1)
            assert line["variance_seconds"] > 0
    code, out, _ = run(capsys, "-n", "2e5", "--estimators", "rewardtogo - v, TD")
    assert code == 0
    # TD needs the infinite horizon to be unbiased.
    assert "Not checked with T = 100, for they are unbiased for the infinite horizon only: TD." in out
    assert out.count("RewardToGo - V") == 4
    assert out.count("\nTD ") == 2
    assert "exact   sampled" in out
    code, out, _ = run(capsys, "-n", "2e5", "--estimators", "RewardToGo,TD", "--horizon", "30", "--json")
    assert code == 0
    assert json.loads(out)["skipped"] == [{"horizon": 30, "estimators": ["TD"]}]
    code, _, err = run(capsys, "--estimators", "actor")
    assert code == 2
    assert "RewardToGo - best" in err
    assert "'actor'" in err
    code, _, err = run(capsys, "--estimators", "RewardToGo,TD,rewardtogo", "--horizon", "5")
    assert (code, "estimators must each be named once but RewardToGo is named 2 times" in err) == (2, True)
    code, _, err = run(capsys, "--estimators", "TD", "--horizon", "5")
    assert code == 2
    assert "infinite horizon only" in err


def test_help_says_what_all_leaves_out(capsys):
    assert main(["crosscheck", "--help"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    for name in BY_NAME:
        assert name in words


def test_exact_variances_are_printed_where_only_the_covariance_is_too_large(monkeypatch, capsys):
    names = "TotalReturn, RewardToGo - V, RewardToGo - average, EvolutionStrategy"
    arguments = ("-n", "2e4", "--estimators", names, "--horizon", "20", "--json")
    known = json.loads(run(capsys, *arguments)[1])["lines"]
    monkeypatch.setattr(sys.modules["fastpg.crosscheck"], "AFFORDABLE", 0)
    for line, exact in zip(json.loads(run(capsys, *arguments)[1])["lines"], known, strict=True):
        assert line["exact_variance"] == (exact["exact_variance"] and pytest.approx(exact["exact_variance"], rel=1e-12))
    assert known[-1]["exact_variance"] is None
    assert all(line["exact_variance"] > 0 for line in known[:-1])
    monkeypatch.setattr("fastpg.documents.AFFORDABLE", 0)
    _, out, _ = run(capsys, *arguments[:-1])
    assert out.count("too costly") == 4
    assert "too costly: the exact variance" in out


def test_the_legend_explains_where_no_bias_is_sure_to_be_found(capsys):
    why = "-: no bias is sure to be found, for nothing is judged, or an entry rests on so\n  few contributions"
    few, many = (run(capsys, "-n", n, "--estimators", "RewardToGo", "--horizon", "30")[1] for n in ("300", "3e5"))
    assert why in few
    assert why not in many


def test_perturbed_policies_share_the_trajectories_of_their_line(capsys):
    names = "EvolutionStrategy coordinate, FiniteDifference"
    code, out, _ = run(capsys, "-n", "1e6", "--estimators", names, "--horizon", "20", "--json")
    assert code == 0
    coordinate, difference = json.loads(out)["lines"]
    assert coordinate["trajectories"] == 500_000
    # Two for each of 4 actions in 11 states.
    assert difference["trajectories"] == 1_000_000 // 88
    for line in (coordinate, difference):
        assert line["verdict"] == "agrees"
        assert line["sampled_variance"] == pytest.approx(line["exact_variance"], rel=0.1)
    code, out, _ = run(capsys, "-n", "1e4", "--estimators", "FiniteDifference", "--horizon", "20")
    assert code == 1
    assert "try -n" in out
