import os
import threading
import time

import pytest

from rlcap.errors import RunError
from rlcap.mailbox import ALIVE, ANSWER, MAX_SILENCE_S, REQUEST, Mailbox, ask


def answer_next(mailbox, reply):
    """Answer the next request in a thread."""

    def serve():
        deadline = time.monotonic() + 30
        while not (messages := mailbox.take()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        reply(messages[0])

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_a_request_is_answered_once_and_leaves_nothing_behind(tmp_path):
    mailbox = Mailbox(tmp_path / "control")
    seen = []

    def reply(message):
        seen.append(message)
        mailbox.answer(message.name, {"version": "v2"})

    thread = answer_next(mailbox, reply)
    assert ask(tmp_path / "control", "swap", {"path": "new"}, timeout_s=30) == {"version": "v2"}
    thread.join()
    assert (seen[0].action, seen[0].arguments) == ("swap", {"path": "new"})
    assert mailbox.take() == []
    assert [path.name for path in (tmp_path / "control").iterdir()] == [ALIVE]


def test_a_refusal_is_raised_with_its_reason(tmp_path):
    mailbox = Mailbox(tmp_path)
    thread = answer_next(mailbox, lambda message: mailbox.refuse(message.name, "it holds NaN"))
    with pytest.raises(RunError, match="it holds NaN"):
        ask(tmp_path, "swap", {}, timeout_s=30)
    thread.join()


def test_requests_are_taken_in_the_order_in_which_they_came(tmp_path):
    mailbox = Mailbox(tmp_path)
    for action in ("first", "second"):
        with pytest.raises(RunError):
            ask(tmp_path, action, {}, timeout_s=-1)
    assert mailbox.take() == []  # nobody waits for them any more
    for number, action in enumerate(("first", "second", "third")):
        (tmp_path / f"{number}{REQUEST}").write_text(f'{{"action": "{action}", "arguments": {{}}}}')
    assert [message.action for message in mailbox.take()] == ["first", "second", "third"]


def test_what_is_no_request_is_refused_and_does_not_stop_the_run(tmp_path):
    mailbox = Mailbox(tmp_path)
    (tmp_path / f"7{REQUEST}").write_text("{")
    assert mailbox.take() == []
    assert "cannot be read" in (tmp_path / "7.answer.json").read_text()


def test_a_run_that_has_not_begun_has_ended_or_is_silent_is_not_asked(tmp_path):
    with pytest.raises(RunError, match="is not going on"):
        ask(tmp_path / "control", "status", {}, timeout_s=1)
    mailbox = Mailbox(tmp_path / "control")
    long_ago = time.time() - MAX_SILENCE_S - 60
    os.utime(tmp_path / "control" / ALIVE, (long_ago, long_ago))
    with pytest.raises(RunError, match="no sign of life for 90 s"):
        ask(tmp_path / "control", "status", {}, timeout_s=1)
    mailbox.close()
    with pytest.raises(RunError, match="is not going on"):
        ask(tmp_path / "control", "status", {}, timeout_s=1)


def test_a_run_that_ends_refuses_what_nobody_has_taken(tmp_path):
    mailbox = Mailbox(tmp_path)
    (tmp_path / f"7{REQUEST}").write_text('{"action": "status", "arguments": {}}')
    mailbox.close()
    assert "the run has ended" in (tmp_path / "7.answer.json").read_text()


def test_what_an_earlier_run_left_is_cleared_away(tmp_path):
    (tmp_path / f"7{REQUEST}").write_text('{"action": "swap", "arguments": {}}')
    assert Mailbox(tmp_path).take() == []


@pytest.mark.parametrize(
    "request_text", ["[" * 100_000, "[]", '{"action": 7, "arguments": {}}', '{"action": "swap"}', "{"]
)
def test_what_is_no_request_is_refused_and_the_run_goes_on(tmp_path, request_text):
    mailbox = Mailbox(tmp_path)
    (tmp_path / f"1{REQUEST}").write_text(request_text)
    assert mailbox.take() == []
    assert "the request cannot be read" in (tmp_path / f"1{ANSWER}").read_text()
