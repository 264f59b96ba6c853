"""The command ``tabmtl``, as a module: ``python -m tabmtl train ...``, or behind ``torchrun -m``."""

from tabmtl.pipelines.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
