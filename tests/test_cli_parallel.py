"""The exit code of a run of many processes says what went wrong, whichever of them speaks."""

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
