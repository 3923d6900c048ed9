# SPDX-License-Identifier: GPL-2.0-only
"""Floor 8: results as text and as data.

Every renderer is a pure function from results to a string: `verdicts` (the verdict
table), `counterexample` and `interleaving` (a schedule that breaks a rule), `compare`
(designs side by side), `listing` (what there is), `documents` (JSON).  Text is at most 78
columns wide, so that it can go into a mail; colour is added only by a `layout.Paint` from
the command line, which knows whether it writes to a terminal.
"""
