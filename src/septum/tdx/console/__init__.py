# SPDX-License-Identifier: GPL-2.0-only
"""A language for the TDX Module's calls, and a console that runs it (docs/tdx-shell.md).

=========== =====================================================================
`calls`     which operands each call takes, and in which registers they go (data)
`names`     symbolic names of pages, GPAs and vCPUs
`lexer`     a line as words with their columns
`expect`    ``-> TDX_OPERAND_BUSY|SEPT_TREE``: expectations
`statement` what a line means
`parser`    from a line to a statement; errors say line, column and what was expected
`session`   executes statements on a `TdxModule`; undo
`explain`   what a call returned, in words
`manual`    help texts
`script`    a whole file
`shell`     the interactive form
=========== =====================================================================
"""
