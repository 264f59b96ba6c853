"""Sphinx settings of the site, which `make docs` builds into docs/_build/html.

The Markdown pages are read as they are. Three scripts in docs/_ext make the rest at every build: the API reference from
the public names, the matrix of capabilities from trials of every estimator, and the cases that were lost from the
records in docs/evidence.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
# the scripts of this site, the benchmarks of the checkout, and the small estimators of its tests
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent), str(HERE.parent / "tests")]
# examples draw off screen, keep to one thread, and send nothing
os.environ |= {"MPLBACKEND": "Agg", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "OMP_NUM_THREADS": "1"}

project = "tabmtl"
author = "The tabmtl developers"
copyright = "The tabmtl developers, BSD-3-Clause"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "api_pages",
    "gallery_links",
    "capabilities",
    "losses",
]
exclude_patterns = ["_build", "_generated", "_ext", "gallery", "Thumbs.db"]
default_role = "py:obj"  # a name in single backticks is a link where the reference has it
nitpicky = False

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "dollarmath"]

autosummary_generate = False  # api_pages writes the pages, and autosummary their tables
autodoc_typehints = "none"  # the numpydoc sections say the types
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
maximum_signature_line_length = 88
numpydoc_show_class_members = False  # api_pages lists them

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "examples",
    "filename_pattern": r"plot_",
    "within_subsection_order": "gallery_order.place",
    "plot_gallery": True,
    "abort_on_example_error": False,
    "only_warn_on_example_error": False,
    "download_all_examples": True,
    "ignore_repr_types": r"tabmtl\.inspection\.plots",  # the picture is enough
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
    "write_computation_times": False,
    "image_srcset": ["2x"],
    "thumbnail_size": (480, 336),
    "backreferences_dir": "examples/backreferences",
    "doc_module": ("tabmtl",),
    "inspect_global_variables": False,
    "reset_modules": ("matplotlib", "gallery_style.apply"),
}

html_theme = "pydata_sphinx_theme"
html_context = {"default_mode": "auto"}
html_title = "tabmtl"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "tabmtl"},
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc", "sg_download_links"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {
    page: [] for page in ("index", "choosing", "capabilities", "scaling", "production", "design", "changelog")
}
