import signal

import pytest

from rlcap.pipeline.interrupt import StopRequested, StopSignal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_the_next_point_where_a_run_can_go_on_later(number: int):
    with StopSignal() as stop:
        stop.check()
        signal.raise_signal(number)
        with pytest.raises(StopRequested):
            stop.check()


def test_whoever_ends_a_job_may_say_so_twice_but_a_second_ctrl_c_stops_at_once():
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StopRequested):
            stop.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
