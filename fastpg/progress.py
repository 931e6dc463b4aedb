"""What happens while one waits: a bar on stderr, and how fast it moves."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter


@contextmanager
def bar(total: int) -> Iterator[Callable[[str, int], Callable[[int], object]]]:
    """A bar on stderr while `total` pieces of work are done, silent where stderr is no terminal.

    Yields a function of a label and the number done before, which returns the callback of one run.
    """
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    except ImportError:
        yield lambda label, before: lambda done: None  # noqa: ARG005
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal, expand=True) as shown:
        task = shown.add_task("preparing", total=total)

        def start(label: str, before: int) -> Callable[[int], object]:
            shown.update(task, description=label, completed=before)
            return lambda done: shown.update(task, completed=before + done)

        yield start


class Pace:
    """A progress callback that passes on what it hears and keeps the time.

    The clock starts at the first call, when the compiled code is loaded and at work. Each sample that is done counts
    as so many `pieces` of work.
    """

    def __init__(self, tell: Callable[[int], object], pieces: int = 1) -> None:
        self._tell = tell
        self._pieces = pieces
        self._calls: list[tuple[int, float]] = []

    def __call__(self, done: int) -> None:
        self._calls = [*self._calls[:1], (done, perf_counter())]
        self._tell(done * self._pieces)

    @property
    def rate(self) -> float:
        """Samples a second; nan where the callback was called but once."""
        if len(self._calls) < 2:
            return math.nan
        (before, start), (done, end) = self._calls
        return (done - before) / (end - start)
