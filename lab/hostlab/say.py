"""What the lab itself has to say: on stderr, each line marked as the lab's."""

import sys

quiet = False  # set by --quiet: progress is left out, failures are not


class LabError(Exception):
    """The lab could not do what was asked; the text is one whole sentence."""


def say(text):
    print(f"lab: {text}", file=sys.stderr, flush=True)


def progress(text):
    if not quiet:
        say(text)
