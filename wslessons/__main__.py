"""``python -m wslessons`` is ``wslessons``: the command line, quiet when it is interrupted.

Until a command runs, and once it has ended, Ctrl-C has nothing to tidy up: then it ends the process
at once, with no traceback of an import that was half done. See `wslessons.cli.interruptible`.
"""

# `signal` itself is some hundredths of a second of Python, in which Ctrl-C would be a traceback.
import _signal  # ty: ignore[import-not-found]
import sys

# Where it is ignored, as in the background of a shell's script, it stays so.
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

from wslessons.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
