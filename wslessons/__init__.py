"""Learn WebSockets by running them: the tested code behind the lessons."""

__version__ = "0.1.0"
