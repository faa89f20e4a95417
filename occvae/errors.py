"""The one exception for mistakes a user can correct."""


class UserError(ValueError):
    """One line: what is wrong, where, and what to do. Commands print it without a traceback."""
