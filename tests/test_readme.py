"""What README prints is what the program prints; its Python is run as a doctest."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from bench import accuracy, report
from fastpg import RewardToGo, SoftmaxPolicy, crosscheck, problems

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_command_line_prints_what_readme_shows():
    shown = re.search(r"```text\n\$ fastpg (.*)\n((?:.*\n)*?)```", README)
    command = [sys.executable, "-m", "fastpg", *shlex.split(shown[1])]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"}, check=True)

    def without_speed(text):
        return re.sub(r" +\d[\d.]*[kMG]?(?= +[\d.]+ +[\d.e-]+ +[\d.]+ \(\d+%\))", " SPEED", text).strip()

    assert "SPEED" in without_speed(shown[2])
    assert without_speed(run.stdout) == without_speed(shown[2])


def test_the_report_of_a_crosscheck_has_the_lines_that_readme_shows():
    shown = re.search(r">>> print\(crosscheck\(.*\n((?:.+\n)+)", README)[1]
    mdp = problems.frozen_lake("4x4", discount=0.99)
    policy = SoftmaxPolicy.uniform(mdp)
    check = crosscheck(mdp, policy, RewardToGo(), n=1_000_000, horizon="geometric", rng=0)
    assert f"{check}\n" == shown


def test_the_main_command_of_readme_is_the_one_it_shows():
    first, second = re.findall(r"```sh\n(.*)\n```", README)
    assert first.endswith("fastpg crosscheck frozen-lake-8x8")
    assert second.endswith("pytest")
    assert "$ fastpg crosscheck frozen-lake-8x8" in README


def test_the_tables_are_those_that_were_measured():
    measured = accuracy.kept()
    results = json.loads((ROOT / "bench" / "results.json").read_text())
    assert report.with_blocks(README, report.blocks(results, measured)) == README
    assert max(row["fastpg"] for row in measured["gradient"].values()) <= 1e-12
    assert "M steps/s" in report.table(results)
