"""The exit code of a run of many processes says what went wrong, whichever of them speaks."""

import os
import signal

import pytest

from hydrapot.cli.parallel import ending_together
from hydrapot.cli.reporting import ERROR, STOPPED
from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.launch import Launch
from hydrapot.training.processes import SilentError


class ExitedError(BaseException):
    """In the place of the end of the process."""


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (ConfigurationError("3 parts cannot be shared by 2 processes"), ERROR),
        (RuntimeError("Connection closed by peer"), STOPPED),
    ],
    ids=["its own error", "another process's"],
)
def test_a_process_that_leaves_the_word_to_another_ends_with_the_code_of_its_own_error(
    cause: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Job scripts resubmit on the code of a stopped run; input that all processes refuse must never look like one."""

    def leave(number: int) -> None:
        raise ExitedError(number)

    monkeypatch.setattr("os._exit", leave)
    with pytest.raises(ExitedError) as ended, ending_together(Launch("mpiexec", rank=1, world=2)):
        raise SilentError("process 0 of the run failed") from cause
    assert ended.value.args == (code,)
    assert capsys.readouterr().err == ""


def test_a_process_that_is_ended_while_it_waits_for_the_word_of_another_keeps_its_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """``srun --kill-on-bad-exit=1``: process 0 has said it and is gone, the others get SIGTERM."""

    def leave(number: int) -> None:
        raise ExitedError(number)

    monkeypatch.setattr("os._exit", leave)
    monkeypatch.setattr("time.sleep", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(ExitedError) as ended, ending_together(Launch("srun", rank=1, world=2)):
            raise ConfigurationError("no such configuration")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.args == (ERROR,)
    assert capsys.readouterr().err == ""
