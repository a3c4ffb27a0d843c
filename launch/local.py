"""Several processes on this machine that train as one run, as several hosts would.

    JAX_NUM_CPU_DEVICES=2 python3 launch/local.py [--dry_run] 2 train \\
        --config=configs/joint_dst.py:tiny --workdir=runs/two

On a machine with accelerators one process takes them all: this is for CPUs, to try things out.
SIGTERM and Ctrl-C reach every process; when one fails, the others are asked to leave, and its code
is that of the whole.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time


def lines(given: argparse.Namespace) -> list[list[str]]:
    """The command line of each process."""
    return [[os.environ.get("PYTHON", sys.executable), "-m", f"speechdst.{given.command}",
             *given.arguments, f"--coordinator_address=localhost:{given.port}",
             f"--num_processes={given.processes}", f"--process_id={i}"]
            for i in range(given.processes)]


def run(commands: list[list[str]]) -> int:
    """Runs them side by side to their end; returns the code of the first that failed, or 0."""
    # Ctrl-C comes to a whole group of processes: a group of their own hears of it once, from here.
    running = [subprocess.Popen(line, process_group=0) for line in commands]

    def tell(*_):
        for process in running:
            if process.poll() is None:
                process.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, tell)
    failed = 0
    while True:
        codes = [process.poll() for process in running]
        if not failed and any(codes):
            failed = next(filter(None, codes))
            tell()
        if None not in codes:
            return failed
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("--port", type=int, default=8476)
    parser.add_argument("processes", type=int)
    parser.add_argument("command", help="train, or another command of speechdst")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if given.dry_run:
        print("\n".join(map(shlex.join, lines(given))))
    else:
        sys.exit(run(lines(given)))


if __name__ == "__main__":
    main()
