"""Measured comparisons, one command each: ``wslessons bench NAME``.

Each bench runs its contenders in turns within one run, server and load in different processes, on
the loopback interface, bounded in count and time. Take the ratios and not the absolute numbers:
they hold on other machines too.

`wslessons.bench.tools` has what the benches share; a bench is a module with `add_arguments(parser)`
and `run(args) -> int`, the exit code.
"""
