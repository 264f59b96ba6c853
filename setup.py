"""What a wheel holds: the packages of tabmtl/, with those of synth/ and pipelines/ inside."""

from pathlib import Path

from setuptools import find_packages, setup

# tabmtl/synth and tabmtl/pipelines are links; a zip or Windows may put files in their place
unlinked = [name for name in ("synth", "pipelines") if not Path("tabmtl", name).is_dir()]
moved = [f"tabmtl.{name}" for name in find_packages() if name.partition(".")[0] in unlinked]
setup(
    packages=[*find_packages(include=["tabmtl*"]), *moved],
    package_dir={"": ".", **{f"tabmtl.{name}": name for name in unlinked}},
)
