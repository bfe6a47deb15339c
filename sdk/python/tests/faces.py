"""Both faces of the package behind one: what holds of Controller must hold of AsyncController."""

import asyncio
import contextlib

import forkd


class Blocking:
    """An AsyncController whose coroutines are run to their end."""

    def __init__(self, *args, **kwargs):
        self.awaited = forkd.AsyncController(*args, **kwargs)

    def __getattr__(self, name):
        member = getattr(self.awaited, name)
        if name in ('spawned', 'branched'):
            return lambda *args, **kwargs: self.entered(member(*args, **kwargs))
        if not asyncio.iscoroutinefunction(member):
            return member
        return lambda *args, **kwargs: asyncio.run(member(*args, **kwargs))

    @staticmethod
    @contextlib.contextmanager
    def entered(context):
        loop = asyncio.new_event_loop()
        try:
            made = loop.run_until_complete(context.__aenter__())
            try:
                yield made
            except BaseException as error:
                loop.run_until_complete(context.__aexit__(type(error), error, error.__traceback__))
                raise
            loop.run_until_complete(context.__aexit__(None, None, None))
        finally:
            loop.close()


FACES = (forkd.Controller, Blocking)


def raised(kind, function, *args, **kwargs):
    """The error of exactly this class that a call ends in."""
    try:
        answer = function(*args, **kwargs)
    except forkd.ForkdError as error:
        assert type(error) is kind, f'{kind.__name__} was to be raised, not {error!r}'
        return error
    raise AssertionError(f'{kind.__name__} was to be raised; the answer is {answer}')
