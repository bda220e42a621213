"""The experiments that the lessons run, one module per lesson: clients that do what people do.

A lesson says in one line what is tried, and this package holds the rest: connecting, waiting,
counting. Each brings its own server and its own clients, cleans up after itself, and can be run
again. They need no notebook.
"""

__all__: list[str] = []
