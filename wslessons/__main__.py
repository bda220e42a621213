"""``python -m wslessons`` is ``wslessons``: the command line, quiet when it is interrupted.

Until a command runs, and once it has ended, Ctrl-C has nothing to tidy up: then it ends the process
at once, with no traceback of an import that was half done. See `wslessons.cli.interruptible`.
"""

import signal
import sys

# Where it is ignored, as in the background of a shell's script, it stays so.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from wslessons.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
