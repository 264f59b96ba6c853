"""The command ``tabmtl sweep``, whose dead workers are noticed soon, in this process and in those that it starts."""

import sys

from tabmtl.tuning import open_study

GRACE_PERIOD = 3  # seconds

open_study.__kwdefaults__["grace_period"] = GRACE_PERIOD

if __name__ == "__main__":
    from tabmtl.pipelines.cli import main

    raise SystemExit(main(["sweep", *sys.argv[1:]]))
