from rlcap.restarts import Restarts


def test_restarts_are_bounded_without_progress_and_begin_anew_with_it():
    restarts = Restarts(limit=2)
    assert [restarts.grant(progress) for progress in (0, 0, 10, 10, 10)] == [True, True, True, True, False]
    assert restarts.grant(20)
    assert not Restarts(limit=0).grant(0)


def test_each_restart_without_progress_waits_twice_as_long_up_to_a_limit():
    restarts = Restarts(limit=9, delay_s=2, longest_delay_s=10)
    delays = []
    for progress in (0, 0, 0, 0, 1):
        restarts.grant(progress)
        delays.append(restarts.delay_s)
    assert delays == [2, 4, 8, 10, 2]
