"""What the commands share: start-up, quiet logs, a line for bad input instead of a trace, a bar."""

import os
import sys
import time
from collections.abc import Iterable, Iterator

from absl import app, flags, logging
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from speechdst import memory
from speechdst.data.dialogue import BadInput


def _parse(argv: list[str]) -> list[str]:
    """Flags and config overrides; a name that the config does not have is one line, no trace."""
    try:
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS and flags.FLAGS.config is not None:
            flags.FLAGS.config.items()  # a config that failed to load says so when it is used
    except BrokenPipeError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, ImportError, OSError) as error:
        _leave(f"in the config or its overrides: {' '.join(str(error.args[0]).split())}")
    except flags.IllegalFlagValueError as error:
        # A config file that failed: its own message is the last line of a trace.
        _leave(f"in a flag or the config file: {str(error).strip().splitlines()[-1]}")
    if len(rest) > 1:
        raise app.UsageError(f"unexpected argument {rest[1]!r}")
    return rest


def _leave(problem: str) -> None:
    print(f"error: {problem}", file=sys.stderr)
    sys.exit(2)


def progress(shards: Iterable[str], total: int, name: str) -> Iterator[str]:
    """A bar on a terminal, elsewhere a plain line now and then."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            yield from bar.track(shards, total=total)
        return
    last = time.monotonic()
    for done, shard in enumerate(shards, 1):
        if done == total or time.monotonic() - last > 10:
            print(f"{name}: {done} of {total} shards", file=sys.stderr, flush=True)
            last = time.monotonic()
        yield shard


def run(main) -> None:
    """Runs an absl `main`; bad input or a bad override ends it with one line and exit code 2."""

    def guarded(argv):
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.ERROR)  # Orbax tells of every rename
        memory.keep()
        try:
            main(argv)
        except BadInput as error:
            _leave(str(error))
        except KeyboardInterrupt:
            print("interrupted: the same command goes on where this one stopped", file=sys.stderr)
            sys.exit(130)

    try:
        app.run(guarded, flags_parser=_parse)
    except BrokenPipeError:  # who read what is printed has gone, as `--help | head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end
        sys.exit(1)
