"""The command ``tabmtl``, as a module: ``torchrun -m tabmtl.pipelines train ...``."""

from tabmtl.pipelines.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
