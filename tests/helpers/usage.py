"""What a command says that is used wrongly."""

import pytest

from tfvae.cli import commands


def error_line(capsys, arguments):
    """Runs a command that must fail with a usage error of one line, and returns that line."""
    with pytest.raises(SystemExit) as raised:
        commands.main(arguments)
    assert raised.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()
    assert len(message) == 1, message
    return message[0]
