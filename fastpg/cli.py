"""The command line: what is asked for, what is run, and how the process ends.

Exit codes: 0 success; 1 a disagreement or an undecided check; 2 bad input; 130 interrupted.
Numerical packages are imported inside the verbs, so that `--help` need not load them.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING, Any, NoReturn

from fastpg._version import __version__
from fastpg.errors import FastPGError, InvalidArgument

if TYPE_CHECKING:
    from fastpg.sampling.tables import Horizon

TRAJECTORIES = 4_000_000
STEPS = 100
FALSE_ALARM = 1e-4
# Runs of trajectories are counted in 64 bits.
MOST_TRAJECTORIES = 10**15


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line on `argv`, by default that of the process, and return the exit code."""
    try:
        arguments = _parser().parse_args(argv)
        code: int = arguments.verb(arguments)
        return code
    except SystemExit as end:  # --help and --version
        return int(end.code or 0)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except MemoryError as error:
        return _fail(f"error: not enough memory: {error or 'try a smaller problem or horizon'}", 2)
    except OSError as error:
        return _fail(f"error: cannot write {error.filename or 'the output'}: {error.strerror or error}", 2)
    except FastPGError as error:
        return _fail(f"error: {error}", 2)


def _fail(message: str, code: int) -> int:
    if sys.stderr is not None:  # Else it would go to stdout.
        print(f"fastpg: {' '.join(message.split())}", file=sys.stderr)
    return code


def _emit(text: str) -> None:
    """Print, quietly if nobody reads on: the verdict of a check does not depend on its readers."""
    if sys.stdout is None:  # Closed before the process began.
        return
    try:
        sys.stdout.write(text.rstrip() + "\n")
        sys.stdout.flush()
    except OSError as error:
        # What the buffer still holds must not fail again when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise


# The verbs


def _problems(arguments: argparse.Namespace) -> int:
    from fastpg import documents, problems, report

    if not arguments.json:
        report.require_rich()
    rows = [(problem.name, problem.make(), problem.summary) for problem in problems.CATALOGUE.values()]
    _emit(documents.as_json(documents.problems_document(rows)) if arguments.json else report.problems_table(rows))
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from fastpg import documents, plot, report
    from fastpg.evaluation import evaluate
    from fastpg.resolve import policy_named, subject

    _prepare(arguments)
    asked = subject(arguments.problem, arguments.discount)
    policy = policy_named(arguments.policy, asked.mdp, arguments.seed)
    evaluation = evaluate(asked.mdp, policy, horizon=arguments.horizon)
    case = documents.Case(asked.name, arguments.policy, arguments.seed, asked.grid)
    if arguments.json:
        _emit(documents.as_json(documents.evaluation_document(case, evaluation)))
    else:
        _emit(report.evaluation_text(case, evaluation))
    if arguments.plot:
        plot.draw_evaluation(case, evaluation).savefig(arguments.plot)
    return 0


def _crosscheck(arguments: argparse.Namespace) -> int:
    from fastpg import documents, plot, plot_variance, progress, report
    from fastpg.crosscheck import crosscheck, holm
    from fastpg.evaluation import evaluate
    from fastpg.lines import left_out, planned
    from fastpg.resolve import policy_named, subject
    from fastpg.rng import generator

    _prepare(arguments)
    if arguments.plot_variance:
        plot.require_writable(arguments.plot_variance)
    # One generator: a random policy is drawn first, then each line has trajectories of its own.
    rng = generator(arguments.seed)
    asked = subject(arguments.problem, arguments.discount)
    policy = policy_named(arguments.policy, asked.mdp, rng)
    horizons: list[Horizon] = ["geometric", STEPS] if arguments.horizon is None else [arguments.horizon]
    exact = {
        horizon: evaluate(asked.mdp, policy, horizon=None if horizon == "geometric" else horizon)
        for horizon in horizons
    }
    plan = planned(arguments.estimators, exact)
    lines: list[documents.Line] = []
    with progress.bar(len(plan) * arguments.trajectories) as start:
        for name, estimator, horizon, episodes in plan:
            pace = progress.Pace(start(f"{name}, T {horizon}", len(lines) * arguments.trajectories), episodes)
            check = crosscheck(
                asked.mdp,
                policy,
                estimator,
                n=max(1, arguments.trajectories // episodes),
                horizon=horizon,
                rng=rng,
                false_alarm=arguments.false_alarm / len(plan),
                threads=arguments.threads,
                progress=pace,
            )
            lines.append(documents.Line(name, check, check.estimate.steps * pace.rate / check.estimate.n, episodes))
    checks = holm([line.check for line in lines], arguments.false_alarm)
    lines = [line._replace(check=check) for line, check in zip(lines, checks, strict=True)]
    skipped = left_out(arguments.estimators, horizons)
    case = documents.Case(asked.name, arguments.policy, arguments.seed, asked.grid)
    if arguments.json:
        _emit(documents.as_json(documents.crosscheck_document(case, exact, lines, arguments.false_alarm, skipped)))
    else:
        text = report.crosscheck_text(case, exact, lines, arguments.false_alarm)
        _emit(text if arguments.estimators is None else f"{text}\n\n{report.variance_text(lines, skipped)}")
    if arguments.plot:
        plot.draw_crosscheck(case, exact[horizons[0]], lines).savefig(arguments.plot)
    if arguments.plot_variance:
        plot_variance.draw_variance(case, exact[horizons[0]], lines).savefig(arguments.plot_variance)
    return 0 if all(line.check.agrees for line in lines) else 1


def _warmup(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    from time import perf_counter

    from fastpg import progress, warmup

    began = perf_counter()
    work = list(warmup.pieces())
    with progress.bar(len(work)) as start:
        for done, (name, compile_it) in enumerate(work):
            start(name, done)(0)
            compile_it()
    _emit(f"compiled, or found compiled, in {perf_counter() - began:.1f} s")
    return 0


def _prepare(arguments: argparse.Namespace) -> None:
    """What would spoil the end of a long run is found at its beginning."""
    from fastpg import plot, report

    if not arguments.json:
        report.require_rich()
    if arguments.plot:
        plot.require_writable(arguments.plot)


# The arguments


class _Parser(argparse.ArgumentParser):
    def print_help(self, file: IO[str] | Any = None) -> None:
        if file is None:
            _emit(self.format_help())
        else:
            super().print_help(file)

    def error(self, message: str) -> NoReturn:
        raise InvalidArgument(f"{message}; '{self.prog} --help' lists what there is")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fastpg",
        description="Exact policy gradients of finite Markov decision processes, and samplers to hold against them.",
        epilog="Exit codes: 0 success, 1 a disagreement or an undecided check, 2 bad input, 130 interrupted.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fastpg {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    verb = _verb(verbs, _evaluate, "evaluate", "exact values, visitation and gradient of a policy")
    _shared(verb)
    verb.add_argument("--horizon", type=_count, metavar="T", help="stop after T steps (default: never)")

    verb = _verb(verbs, _crosscheck, "crosscheck", "hold the exact gradient against sampled ones")
    _shared(verb)
    verb.add_argument(
        "--horizon",
        type=_horizon,
        metavar="T|geometric",
        help="stop after T steps, or after each step with probability 1 - DISCOUNT, which stands for the infinite "
        f"horizon (default: geometric, and one line with T = {STEPS})",
    )
    verb.add_argument(
        "-n",
        "--trajectories",
        type=_trajectories,
        default=TRAJECTORIES,
        metavar="N",
        help="trajectories for each line, such as 1e6, shared out where a sample takes several "
        f"(default: {TRAJECTORIES:,})",
    )
    verb.add_argument(
        "--estimators",
        metavar="all|NAME,...",
        help="check these and compare their variances; an unknown name lists them, and 'all' is all of these but "
        "FiniteDifference, FiniteDifference common and EvolutionStrategy coordinate, for which N trajectories decide "
        "little (default: three that are unbiased)",
    )
    verb.add_argument("--plot-variance", metavar="FILE", help="draw covariances, z-scores and variances")
    verb.add_argument("--threads", type=_count, metavar="K", help="threads to sample on (default: all cores)")
    verb.add_argument(
        "--false-alarm",
        type=_false_alarm,
        default=FALSE_ALARM,
        metavar="RATE",
        help="the probability that an unbiased sampler fails this command, divided evenly among its lines "
        f"(default: {FALSE_ALARM:g})",
    )

    _verb(verbs, _warmup, "warmup", "compile everything into the cache, so that no first call has to wait")

    verb = _verb(verbs, _problems, "problems", "list the problems that have a name")
    verb.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    return parser


def _verb(
    verbs: "argparse._SubParsersAction[_Parser]",
    run: Callable[[argparse.Namespace], int],
    name: str,
    summary: str,
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=summary, description=summary.capitalize() + ".", allow_abbrev=False)
    parser.set_defaults(verb=run)
    return parser


def _shared(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "problem",
        metavar="PROBLEM",
        help="a name that 'fastpg problems' lists, or the id of a tabular environment, such as gymnasium:Taxi-v4",
    )
    verb.add_argument("--discount", type=_discount, help="in [0, 1] (default: that of the problem)")
    verb.add_argument("--policy", choices=("uniform", "random"), default="uniform", help="(default: uniform)")
    verb.add_argument("--seed", type=_seed, default=0, help="of everything random (default: 0)")
    verb.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    verb.add_argument("--plot", metavar="FILE", help="draw a picture: .png, .pdf or .svg")


def _whole(text: str, low: int, high: int | None, rule: str) -> int:
    """`text`, which may be written as 1e6 or 4_000_000, as an integer."""
    try:
        value = int(text)
    except ValueError:
        try:
            number = float(text)
        except ValueError:
            number = 0.5
        value = int(number) if number.is_integer() else low - 1
    if value < low or (high is not None and value > high):
        raise argparse.ArgumentTypeError(f"must be {rule} but is {text!r}")
    return value


def _count(text: str) -> int:
    return _whole(text, 1, sys.maxsize, "a positive integer")


def _trajectories(text: str) -> int:
    return _whole(text, 1, MOST_TRAJECTORIES, "an integer from 1 to 1e15")


def _seed(text: str) -> int:
    return _whole(text, 0, None, "a non-negative integer")


def _horizon(text: str) -> "Horizon":
    return "geometric" if text == "geometric" else _whole(text, 1, sys.maxsize, "a positive integer or 'geometric'")


def _number(text: str, good: Callable[[float], bool], rule: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not good(value):
        raise argparse.ArgumentTypeError(f"must be {rule} but is {text!r}")
    return value


def _discount(text: str) -> float:
    return _number(text, lambda x: 0 <= x <= 1, "a number in [0, 1]")


def _false_alarm(text: str) -> float:
    return _number(text, lambda x: 0 < x < 1, "a number between 0 and 1")
