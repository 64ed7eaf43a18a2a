"""Commands that refuse their flags."""

from dien_jax import train


def refusal(arguments: list[str], capfd, status: int = 2) -> str:
    """What the command line says when it refuses; nothing on standard output, no traceback."""
    assert train.main(arguments) == status
    output = capfd.readouterr()
    assert output.out == ""
    assert "Traceback" not in output.err
    return output.err
