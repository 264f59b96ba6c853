"""The command ``tabmtl``, for ``torchrun -m tabmtl.pipelines train ...``."""

from tabmtl.pipelines.cli import main

raise SystemExit(main())
