# SPDX-License-Identifier: GPL-2.0-only
"""The documentation site: ``make docs`` builds it into build/docs.

Pages of reference/ are written by `septum_reference` from the package itself when the
site is built; they are not kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from septum import __version__

project = "septum"
author = "the septum authors"
copyright = "the septum authors, GPL-2.0-only"
version = release = __version__
extensions = ["myst_parser", "sphinx_click", "septum_reference"]
exclude_patterns = ["_static/*", "examples/*", "schemas/*"]
html_theme = "furo"
html_title = f"septum {__version__}"
html_show_sphinx = False
smartquotes = False  # -- begins an option
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_copy_source = False
html_show_sourcelink = False
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
nitpicky = True
pygments_style = "default"
pygments_dark_style = "github-dark"
