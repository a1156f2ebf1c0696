"""The command line, ``symgrad COMMAND``.

Exit codes: 0 ok, 1 the user's error, 2 wrong usage, 3 a check that failed, 70 a defect of
symgrad (with a reproducer's path), 130 interrupted.  Results go to stdout, everything else
to stderr.
"""


def main() -> None:
    """Entry point of the command ``symgrad``."""
    from symgrad.cli.app import app

    app()
