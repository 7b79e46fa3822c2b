"""The `lam-jax` command, a file a subcommand: a dataclass whose `run` does the work; jax is imported only there.

Exit codes: see `lam_jax.errors`.
"""

import errno
import os
import select
import sys
import traceback
from typing import Any

import tyro
from rich.console import Console

from lam_jax import __version__
from lam_jax.cli.chat import Chat
from lam_jax.cli.codes import Codes
from lam_jax.cli.compile import Compile
from lam_jax.cli.convert import Convert
from lam_jax.cli.data import Data, data_command
from lam_jax.cli.demo import Demo
from lam_jax.cli.evaluate import Evaluate
from lam_jax.cli.export import Export
from lam_jax.cli.generate import Generate
from lam_jax.cli.grid import GridCommand
from lam_jax.cli.judge import Judge
from lam_jax.cli.presets import Presets
from lam_jax.cli.report import Report
from lam_jax.cli.reviews import Reviews
from lam_jax.cli.serve import Serve
from lam_jax.cli.steer import Steer
from lam_jax.cli.table import TableCommand
from lam_jax.cli.train import Train, train_command
from lam_jax.cli.watch import Watch
from lam_jax.errors import NoSpaceError

BAD_FLAG = 2
INTERRUPTED = 130
UNREAD = 141  # as of a program that SIGPIPE ends

COMMANDS = {
    "train": Train,
    "demo": Demo,
    "report": Report,
    "grid": GridCommand,
    "table": TableCommand,
    "export": Export,
    "evaluate": Evaluate,
    "generate": Generate,
    "chat": Chat,
    "serve": Serve,
    "codes": Codes,
    "steer": Steer,
    "convert": Convert,
    "compile": Compile,
    "presets": Presets,
    "watch": Watch,
    "judge": Judge,
    "reviews": Reviews,
    "data": Data,
}


def exit_code(error: BaseException) -> int:
    """The code that the command ends with after `error`."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError.exit_code
    return getattr(error, "exit_code", 1)


def is_expected(error: BaseException) -> bool:
    """Whether the message of an error says all; others are shown with their stack trace."""
    return isinstance(error, OSError | KeyboardInterrupt) or type(error).__module__.startswith("lam_jax.")


def _complain(error: BaseException) -> None:
    text = str(error) or ("interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__)
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename:
        text = f"{error.filename}: {error.strerror}. Give this user the right to it, or name another file or folder."
    Console(stderr=True).print(f"lam-jax: {text}", style="red", soft_wrap=True, highlight=False, markup=False)


def _command(args: list[str]) -> Any:
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="lam-jax",
        description="Latent-action reinforcement learning of vision-language agents (arXiv 2601.07516).",
        args=args,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def main(args: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    try:
        code = _main(sys.argv[1:] if args is None else args)
        sys.stdout.flush()
    except BrokenPipeError as error:
        if not is_unread(error):
            raise
        return UNREAD
    return code


def _main(args: list[str]) -> int:
    if args == ["--version"]:
        Console().print(f"lam_jax {__version__}", highlight=False)
        return 0
    try:
        own = {"train": train_command, "data": data_command}.get(args[0] if args else "")
        command = own(args[1:]) if own else _command(args)
    except ValueError as error:
        _complain(error)
        return BAD_FLAG
    try:
        return command.run() or 0
    except (Exception, KeyboardInterrupt) as error:
        if is_unread(error):
            return UNREAD
        report_error(error)
        return exit_code(error)


def is_unread(error: BaseException) -> bool:
    """Whether who read standard output has gone, as `| head` does; what is still printed goes nowhere from then on."""
    if not isinstance(error, BrokenPipeError) or not hasattr(select, "poll"):
        return False
    try:
        out = sys.stdout.fileno()
    except (OSError, ValueError):  # standard output is no file, as in a notebook
        return False
    poll = select.poll()
    poll.register(out, 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), out)
    return True


def report_error(error: BaseException) -> None:
    """Prints the error that ends a command, with its stack trace where its message does not say all."""
    if not is_expected(error):
        traceback.print_exception(error)
    _complain(error)
