import signal

import pytest

from rlcap import stop_signals
from rlcap.pipeline.interrupt import StopRequested, StopSignal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_at_the_next_point_where_a_run_can_go_on_later(number: int):
    with StopSignal() as stop:
        stop.check()
        signal.raise_signal(number)
        with pytest.raises(StopRequested):
            stop.check()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_whoever_ends_a_job_may_say_so_twice_but_a_second_ctrl_c_stops_at_once(number: int):
    with StopSignal() as stop:
        signal.raise_signal(number)
        signal.raise_signal(number)
        with pytest.raises(StopRequested):
            stop.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_second_hang_up_that_is_no_echo_of_the_first_stops_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stop_signals, "ECHO_S", 0.0)
    with StopSignal():
        signal.raise_signal(signal.SIGHUP)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGHUP)


def test_under_nohup_a_hang_up_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
            stop.check()
    finally:
        signal.signal(signal.SIGHUP, before)
