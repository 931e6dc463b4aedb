"""Pictures: drawn for every kind of problem, checked before the work, and no trace in matplotlib's state."""

import subprocess
import sys

import numpy as np
import pytest

import fastpg
from fastpg.cli import main
from fastpg.documents import Case, Line
from fastpg.errors import InvalidArgument
from fastpg.lines import planned
from fastpg.plot import draw_crosscheck, draw_evaluation, require_writable
from fastpg.plot_variance import covariances_tested, draw_variance
from fastpg.resolve import subject

matplotlib = pytest.importorskip("matplotlib")


def evaluated(name, horizon=None):
    """A case, and its evaluation under a random policy."""
    asked = subject(name)
    policy = fastpg.random(asked.mdp, rng=0)
    return Case(name, "random", 0, asked.grid), fastpg.evaluate(asked.mdp, policy, horizon=horizon)


def drawn(figure, tmp_path):
    """The figure, after it was drawn without a warning and found to have content."""
    file = tmp_path / "picture.png"
    figure.savefig(file)
    assert file.read_bytes().startswith(b"\x89PNG")
    return figure


def axes_titled(figure, words):
    """The one panel whose title contains `words`."""
    (found,) = (axes for axes in figure.findobj(matplotlib.axes.Axes) if words in axes.get_title())
    return found


CASES = [(name, None) for name in sorted(fastpg.problems.CATALOGUE)]


@pytest.mark.parametrize(("name", "horizon"), [*CASES, ("frozen-lake-4x4", 3), ("bandit", 1), ("garnet", 3)])
def test_every_problem_can_be_drawn(name, horizon, tmp_path):
    case, evaluation = evaluated(name, horizon)
    figure = drawn(draw_evaluation(case, evaluation), tmp_path)
    assert axes_titled(figure, "value")
    assert axes_titled(figure, "gradient")
    assert case.problem in figure.get_suptitle()


def test_colours_of_the_cells_are_the_values(tmp_path):
    case, evaluation = evaluated("frozen-lake-4x4")
    figure = drawn(draw_evaluation(case, evaluation), tmp_path)
    (image,) = axes_titled(figure, "value").get_images()
    cells = image.get_array()
    np.testing.assert_array_equal(cells.mask.ravel(), evaluation.mdp.terminal)
    np.testing.assert_array_equal(cells.compressed(), evaluation.value[~evaluation.mdp.terminal])


def test_triangles_show_the_gradient_on_the_side_that_the_action_moves_to(tmp_path):
    case, evaluation = evaluated("cliff-walking")
    figure = drawn(draw_evaluation(case, evaluation), tmp_path)
    polygons = axes_titled(figure, "gradient").findobj(matplotlib.collections.PolyCollection)
    (triangles,) = [shape for shape in polygons if not isinstance(shape, matplotlib.quiver.Quiver)]
    gradient = evaluation.logit_gradient
    visited = evaluation.occupancy > 0
    np.testing.assert_array_equal(triangles.get_array(), gradient[visited].ravel())
    for path, colour in zip(triangles.get_paths(), triangles.get_array(), strict=True):
        (x, y), *side = path.vertices[:3]
        right, down = 2 * (np.mean(side, axis=0) - (x, y))
        action = case.grid.moves.index((round(down), round(right)))
        assert gradient[int(y) * 12 + int(x), action] == colour


def test_arrows_show_the_pull_of_the_gradient(tmp_path):
    case, evaluation = evaluated("cliff-walking")
    figure = drawn(draw_evaluation(case, evaluation), tmp_path)
    (arrows,) = axes_titled(figure, "gradient").findobj(matplotlib.quiver.Quiver)
    moves = np.array(case.grid.moves)[:, ::-1]
    for x, y, right, down in zip(arrows.X, arrows.Y, arrows.U, arrows.V, strict=True):
        pull = evaluation.logit_gradient[int(y) * 12 + int(x)] @ moves
        assert np.allclose(np.array([right, down]) / np.hypot(right, down), pull / np.hypot(*pull))
    assert np.hypot(arrows.U, arrows.V).max() == pytest.approx(0.44)


def test_arrows_are_as_long_as_the_policy_says(tmp_path):
    case, evaluation = evaluated("frozen-lake-8x8")
    figure = drawn(draw_evaluation(case, evaluation), tmp_path)
    total = sum(
        np.hypot(arrows.U, arrows.V).sum() for arrows in axes_titled(figure, "value").findobj(matplotlib.quiver.Quiver)
    )
    pi = evaluation.policy.probabilities[~evaluation.mdp.terminal]
    # The shortest arrows are left out.
    assert total == pytest.approx(0.44 * pi.sum() / pi.max(), rel=0.02)


@pytest.mark.parametrize("name", ["frozen-lake-4x4", "cliff-walking", "chain"])
def test_crosschecks_show_judged_and_left_out_entries(name, tmp_path):
    case, evaluation = evaluated(name)
    lines = [
        Line(estimator, check, 1.0)
        for estimator, n in (("RewardToGo", 3000), ("few", 10))
        for check in [
            fastpg.crosscheck(evaluation.mdp, evaluation.policy, fastpg.RewardToGo(), n=n, horizon="geometric", rng=0)
        ]
    ]
    figure = drawn(draw_crosscheck(case, evaluation, lines), tmp_path)
    for line in lines:
        legend = axes_titled(figure, f"{line.estimator},").get_legend()
        labels = " ".join(text.get_text() for text in legend.get_texts())
        assert ("judged" in labels) == bool(line.check.judged.any())
        assert ("left out" in labels) == bool(line.check.left_out)


def test_titles_of_lines_stay_within_the_picture(tmp_path):
    case, evaluation = evaluated("frozen-lake-4x4")
    check = fastpg.crosscheck(evaluation.mdp, evaluation.policy, fastpg.RewardToGo(), n=10, horizon="geometric", rng=0)
    figure = drawn(draw_crosscheck(case, evaluation, [Line("RewardToGo - average", check, 1.0)] * 5), tmp_path)
    titles = [
        axes.title.get_window_extent() for axes in figure.findobj(matplotlib.axes.Axes) if "T geo" in axes.get_title()
    ]
    edges = [x for box in sorted(titles, key=lambda box: box.x0) for x in (box.x0, box.x1)]
    assert len(edges) == 10
    assert edges == sorted(edges)
    assert 0 < edges[0] < edges[-1] < figure.bbox.width


def test_the_picture_of_variances_shows_what_is_computed(tmp_path):
    case, evaluation = evaluated("frozen-lake-4x4")
    estimator = fastpg.RewardToGo(evaluation.value)
    check = fastpg.crosscheck(evaluation.mdp, evaluation.policy, estimator, n=200_000, horizon="geometric", rng=0)
    exact, sampled = covariances_tested(check)
    entries = (check.estimate.pooling.pool >= 0).ravel()
    np.testing.assert_array_equal(exact, check.covariance.reshape(64, 64)[np.ix_(entries, entries)])
    scale = np.sqrt(np.diag(exact))
    # Correlations from 4096 blocks of 50, each entry of the lake resting on hundreds of contributions or more.
    assert np.abs((sampled - exact) / np.outer(scale, scale)).max() < 0.35
    figure = drawn(draw_variance(case, evaluation, [Line("RewardToGo - V", check, 1e6)]), tmp_path)
    (curve,) = [line for line in axes_titled(figure, "GAE").get_lines() if len(line.get_xdata()) > 1]
    last = fastpg.estimator_moments(evaluation, fastpg.GAE(1.0, evaluation.value), horizon="geometric").trace
    assert curve.get_ydata()[-1] == last
    assert axes_titled(figure, "exact covariance").get_images()
    assert "judged" not in axes_titled(figure, "z-scores").get_legend().get_texts()[0].get_text()


def variances_drawn(names, horizons, tmp_path, n=20_000):
    """The picture of the small lake for some estimators with each horizon."""
    case, evaluation = evaluated("frozen-lake-4x4")
    exact = {
        h: fastpg.evaluate(evaluation.mdp, evaluation.policy, horizon=None if h == "geometric" else h) for h in horizons
    }
    lines = [
        Line(
            name,
            fastpg.crosscheck(evaluation.mdp, evaluation.policy, estimator, n=n // episodes, horizon=horizon, rng=0),
            1e6,
            episodes,
        )
        for name, estimator, horizon, episodes in planned(names, exact)
    ]
    return drawn(draw_variance(case, exact[horizons[0]], lines), tmp_path)


def test_variances_are_points_with_their_values(tmp_path):
    near = axes_titled(variances_drawn("RewardToGo,RewardToGo - V", ["geometric", 100], tmp_path), "variance of all")
    assert near.get_xscale() == "linear"
    assert near.get_xlim()[0] == 0
    far = axes_titled(variances_drawn("RewardToGo,PlugIn Q - V", ["geometric"], tmp_path), "variance of all")
    assert far.get_xscale() == "log"
    assert not far.patches
    (values,) = far.child_axes
    sampled, exact = (line.get_xdata() for line in far.get_lines())
    assert [x.get_text() for x in values.get_yticklabels()] == [f"{x:.3g}" for x in exact]
    np.testing.assert_allclose(sampled, exact, rtol=0.3)
    assert far.get_xlim()[0] < min(*sampled, *exact)


def test_covariances_of_pools_are_called_so(tmp_path):
    case, evaluation = evaluated("garnet")
    check = fastpg.crosscheck(evaluation.mdp, evaluation.policy, fastpg.RewardToGo(), n=10_000, horizon=20, rng=0)
    entries = (check.estimate.pooling.pool >= 0).sum()
    known, _ = covariances_tested(check)
    assert len(known) < entries
    panel = axes_titled(
        drawn(draw_variance(case, evaluation, [Line("RewardToGo", check, 1.0)]), tmp_path), "exact covariance"
    )
    assert panel.get_xlabel() == f"pool (of the {entries} entries tested)"
    alone = axes_titled(variances_drawn("RewardToGo", [30], tmp_path), "exact covariance")
    assert alone.get_xlabel() == "entry (those tested)"


def test_labels_say_what_lines_of_other_kinds_are(tmp_path):
    mixed = variances_drawn("RewardToGo,EvolutionStrategy", ["geometric", 100], tmp_path)
    assert "(T = 100 where a line says so)" in mixed.get_suptitle()
    assert "exact or sampled standard error" in axes_titled(mixed, "z-scores").get_xlabel()
    plain = variances_drawn("RewardToGo", [30], tmp_path)
    assert "T = 30: J" in plain.get_suptitle()
    assert "where a line" not in plain.get_suptitle()
    assert "/ exact standard error" in axes_titled(plain, "z-scores").get_xlabel()


def test_entries_of_a_covariance_are_counted_in_whole_numbers(tmp_path):
    mdp = fastpg.problems.bandit([1.0, 0.0])
    evaluation = fastpg.evaluate(mdp, fastpg.SoftmaxPolicy.uniform(mdp), horizon=1)
    check = fastpg.crosscheck(mdp, evaluation.policy, fastpg.RewardToGo(), n=1000, horizon=1, rng=0)
    figure = drawn(
        draw_variance(Case("bandit", "uniform", 0, None), evaluation, [Line("RewardToGo", check, 1e6)]), tmp_path
    )
    panel = axes_titled(figure, "exact covariance")
    for ticks in (panel.get_xticks(), panel.get_yticks()):
        np.testing.assert_array_equal(ticks, np.round(ticks))


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_command_writes_the_picture(suffix, tmp_path, capsys):
    file = tmp_path / f"chain.{suffix}"
    assert main(["evaluate", "chain", "--plot", str(file)]) == 0
    assert file.stat().st_size > 1000
    assert capsys.readouterr().err == ""


def test_drawing_leaves_no_state():
    code = """
import sys, tempfile, matplotlib
before = matplotlib.rcParams.copy()
from fastpg.cli import main
with tempfile.TemporaryDirectory() as folder:
    main(["crosscheck", "frozen-lake-4x4", "-n", "1e4", "--json", "--plot", folder + "/lake.png"])
assert matplotlib.rcParams.copy() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_file_that_cannot_be_written_is_found_before_the_work(tmp_path):
    require_writable(str(tmp_path / "fine.PNG"))
    (tmp_path / "folder.png").mkdir()
    for name in ("lake", "lake.gif", "missing/lake.png", "folder.png"):
        with pytest.raises(InvalidArgument, match="plot must be"):
            require_writable(str(tmp_path / name))
    assert list(tmp_path.iterdir()) == [tmp_path / "folder.png"]


def test_a_picture_that_fails_late_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fastpg.plot.require_writable", lambda _: None)
    file = tmp_path / "missing" / "chain.png"
    assert main(["evaluate", "chain", "--json", "--plot", str(file)]) == 2
    streams = capsys.readouterr()
    assert streams.out.startswith("{")
    assert streams.err == f"fastpg: error: cannot write {file}: No such file or directory\n"
