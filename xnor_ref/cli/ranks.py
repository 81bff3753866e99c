"""A command that several processes run together: they begin together, and all end where one of them fails."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from xnor_ref.errors import InputError, XnorRefError


@contextmanager
def joined(distributed: bool, patience: float) -> Iterator[Any]:
    """All processes that MPI started, as `training.distributed.ranks.MpiRanks`; None where nothing is `distributed`.

    What all ranks fail of, the first one reports. What some fail of, they report, and end the job.

    Raises
    ------
    InputError : `distributed` without mpi4py; or several processes were started that would not know of each other
    """
    from xnor_ref.training.distributed import ranks

    if not distributed:
        if (count := ranks.started_together()) > 1:
            raise InputError(f"{count} processes were started together; add --distributed, or each would train alone")
        yield None
        return
    if not 1 <= patience <= 86_400:
        raise InputError(f"--rank-timeout must be from 1 to 86400 seconds, got {patience:g}")
    team = ranks.MpiRanks(patience)
    try:
        yield team
        team.leave()
    except BaseException as error:
        code, text = told(error)
        team.failed(code, text)
        if team.rank == 0:
            raise
        raise click.exceptions.Exit(code) from None


def told(error: BaseException) -> tuple[int, str]:
    """The exit code of an error, and what is said of it."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + getattr(error, "signal_number", signal.SIGINT), str(error) or "stopped"
    if isinstance(error, click.ClickException):
        return error.exit_code, f"error: {error.format_message()}"
    if isinstance(error, XnorRefError):
        return error.exit_code, f"error: {error}"
    return 1, f"error: {type(error).__name__}: {error}"
