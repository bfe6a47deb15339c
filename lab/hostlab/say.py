"""What the lab itself has to say: on stderr, each line marked as the lab's."""

import sys

quiet = False  # set by --quiet: progress is left out, failures are not


class LabError(Exception):
    """The lab could not do what was asked; the text is one whole sentence."""


# Over a line that somebody's progress has left unfinished.
CLEAR = "\r\033[K" if sys.stderr.isatty() else ""


def say(text):
    print(f"{CLEAR}lab: {text}", file=sys.stderr, flush=True)


def progress(text):
    if not quiet:
        say(text)
