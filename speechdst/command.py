"""What the commands share: start-up, quiet logs, and one line for bad input instead of a trace."""

import sys

from absl import app, flags, logging

from speechdst.data.dialogue import BadInput


def run(main) -> None:
    """Runs an absl `main`; a `BadInput` or a bad config override ends it with exit code 2."""

    def quietly(argv):
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # Orbax tells of every rename
        return main(argv)

    try:
        app.run(quietly)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
