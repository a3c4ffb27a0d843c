"""Makes all golden files with the reference implementations (torch, transformers, peft on a CPU).

    python tests/golden/make.py            # write them
    python tests/golden/make.py --check    # compute them anew and compare, stored and ours

Runs every `make_*.py` beside it.
"""

import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    scripts = sorted(Path(__file__).parent.glob("make_*.py"))
    failed = [s.name for s in scripts if subprocess.call([sys.executable, str(s), *sys.argv[1:]])]
    print(f"failed: {', '.join(failed)}" if failed else f"{len(scripts)} scripts, all well")
    sys.exit(bool(failed))
