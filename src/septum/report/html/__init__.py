# SPDX-License-Identifier: GPL-2.0-only
"""The HTML report: one file that shows verdicts and walks through counterexamples."""

from septum.report.html.page import Told, page
from septum.report.html.stories import Code, story

__all__ = ["Code", "Told", "page", "story"]
