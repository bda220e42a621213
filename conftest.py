"""What pytest loads first in this project: nbval, quickly."""

from wslessons.lab.outputs import import_jsonschema

import_jsonschema()

# Not by its entry point, which pytest loads before any file of the project.
pytest_plugins = ("nbval.plugin",)
