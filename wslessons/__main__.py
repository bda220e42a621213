"""``python -m wslessons`` is ``wslessons``."""

import sys

from wslessons.cli import main

sys.exit(main())
