"""What pytest loads first in this project: nbval, without what takes seconds of each process.

`jsonschema`, which nbval needs, compiles a grammar of all internationalised addresses as soon as it
is imported, two seconds in each of the processes that the tests run in. It checks formats that no
notebook has, and does without where the package is missing.
"""

import sys

for _name in ("rfc3987_syntax", "isoduration"):
    sys.modules.setdefault(_name, None)  # ty: ignore[no-matching-overload]

# Not by its entry point, which pytest loads before any file of the project.
pytest_plugins = ("nbval.plugin",)
