"""Errors that end a run, each with the exit code that the `lam-jax` command returns for it.

| code | meaning |
|---|---|
| 0 | finished |
| 1 | an error that is not listed here |
| 2 | bad flag or bad configuration (`BadSettingError`) |
| 3 | the output folder holds what another configuration made (`OtherConfigurationError`) |
| 4 | the output folder is in use by another process (`RunFolderBusyError`) |
| 5 | no space left for a checkpoint or a log (`NoSpaceError`) |
| 6 | no usable checkpoint: all are damaged (`DamagedCheckpointError`) |
| 7 | the checkpoint does not fit the model (`CheckpointMismatchError`) |
| 8 | a loss or another metric became infinite or NaN (`NonFiniteError`) |
| 9 | the codebook collapsed (`CodebookCollapseError`) |
| 10 | stopped by SIGTERM or a preemption, after a checkpoint was saved; run again to go on (`PreemptedError`) |
| 11 | the processes of a run differ in code, configuration, data or weights (`ProcessesDifferError`) |
| 12 | the watchdog ended a run whose step took longer than its patience |
| 13 | the watchdog ended this process because another process of the run had ended |
| 14 | the processes could not be started together (`lam_jax.parallel.processes.StartUpError`) |
| 15 | a reward raised an exception, or gave what are no numbers (`RewardError`) |
| 16 | the output folder cannot be written (`UnwritableFolderError`) |
| 17 | (nearly) no reward call of several steps in a row could be used (`NoUsableRewardError`) |
| 18 | the codes cannot move the answers, and the recipe says to stop there (`IdleCodesError`) |
| 130 | interrupted from the keyboard; inside a run after a checkpoint was saved (`InterruptedRunError`) |
| 141 | who read standard output has gone, as `head` does; nothing is said of it |
"""


class LamJaxError(Exception):
    """Base of the errors that the command line reports as one message, without a stack trace."""

    exit_code = 1


class BadSettingError(LamJaxError, ValueError):
    """A flag or an argument that cannot be used, found before any work."""

    exit_code = 2


class OtherConfigurationError(LamJaxError):
    """The output folder was made by a run with another configuration."""

    exit_code = 3


class RunFolderBusyError(LamJaxError):
    """Another process is writing to the output folder."""

    exit_code = 4


class NoSpaceError(LamJaxError):
    """The disk (or the quota) is full; nothing half-written was left behind."""

    exit_code = 5


class DamagedCheckpointError(LamJaxError):
    """A checkpoint is incomplete, unreadable, or its content differs from what was saved."""

    exit_code = 6


class CheckpointMismatchError(LamJaxError):
    """A sound checkpoint holds other arrays than the ones asked for."""

    exit_code = 7


class NonFiniteError(LamJaxError):
    """A metric became infinite or NaN."""

    exit_code = 8


class CodebookCollapseError(LamJaxError):
    """Too few codes of the codebook stayed in use."""

    exit_code = 9


class IdleCodesError(LamJaxError):
    """The codes hardly move the answers, so RL over them has little to choose from."""

    exit_code = 18


class PreemptedError(LamJaxError):
    """SIGTERM, or a preemption notice to any process: what can be saved was saved."""

    exit_code = 10


class InterruptedRunError(PreemptedError):
    """Ctrl-C: what can be saved was saved."""

    exit_code = 130


class ProcessesDifferError(LamJaxError):
    """The processes of one run were started with different code, configuration, data or weights."""

    exit_code = 11


class RewardError(LamJaxError):
    """A reward raised an exception, or gave something else than a finite number an answer."""

    exit_code = 15


class NoUsableRewardError(RewardError):
    """Of the reward calls of several steps in a row (nearly) none could be used; the message says why."""

    exit_code = 17


class UnwritableFolderError(LamJaxError):
    """The output folder, or one that it would be made in, cannot be written."""

    exit_code = 16
