"""What the command says of an error: the request's id where the nodes' logs have more to say about it."""

from __future__ import annotations

import msgspec
import pytest

from ringkeep.command.options import Output
from ringkeep.command.outcome import tell
from ringkeep.errors import error_of_answer


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (504, "outcome_unknown", "ringkeep: nobody knows (request find-me.42). It may have been done"),
        (500, "internal", "ringkeep: nobody knows (request find-me.42). This is a bug"),
        (404, "not_found", "ringkeep: nobody knows.\n"),
    ],
)
def test_an_error_of_the_cluster_names_the_request_that_its_logs_know(
    status: int, code: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    problem = {"code": code, "detail": "nobody knows", "retryable": False, "status": status}
    error = error_of_answer(status=status, body=msgspec.json.encode(problem), node="n1", request_id="find-me.42")
    tell(error, Output.TEXT)

    assert capsys.readouterr().err.startswith(said)
