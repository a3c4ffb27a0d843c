"""What the commands share: start-up, quiet logs, and one line for bad input instead of a trace."""

import sys

from absl import app, flags, logging

from speechdst.data.dialogue import BadInput


def _parse(argv: list[str]) -> list[str]:
    """Flags and config overrides; a name that the config does not have is one line, no trace."""
    try:
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS and flags.FLAGS.config is not None:
            flags.FLAGS.config.items()  # a config that failed to load says so when it is used
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


def run(main) -> None:
    """Runs an absl `main`; bad input or a bad override ends it with one line and exit code 2."""

    def guarded(argv):
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # Orbax tells of every rename
        try:
            main(argv)
        except BadInput as error:
            _leave(str(error))
        except KeyboardInterrupt:
            print("interrupted: the same command goes on where this one stopped", file=sys.stderr)
            sys.exit(130)

    app.run(guarded, flags_parser=_parse)
