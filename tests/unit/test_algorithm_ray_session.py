import os

from rlcap.algorithm.ray_session import without_advice


def test_only_the_advice_is_kept_off_standard_error(capfd):
    with without_advice():
        os.write(2, b"first\nActor has constructor arguments in the object store and max_restarts > 0.\nlast")
    assert capfd.readouterr().err == "first\nlast"
    os.write(2, b"as before")
    assert capfd.readouterr().err == "as before"
