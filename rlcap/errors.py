"""Every error that rlcap raises across a process or at a user; each message says what to do."""


class RlcapError(Exception):
    """A fault that the user can act on: commands print it as one sentence, without a traceback."""


class ConfigError(RlcapError):
    """Settings that name an unknown key or hold a value that is not allowed."""


class DataError(RlcapError):
    """An audio source or a preference file that cannot be used as a whole."""


class ClipError(RlcapError):
    """One clip that cannot be used; the reason goes to the quarantine list and the run goes on."""


class RowError(RlcapError):
    """One row of a table, or one member of an archive, that cannot be used; it is quarantined and the others used."""


class CheckpointError(RlcapError):
    """A checkpoint that is missing, damaged, or of another architecture."""


class RewardError(RlcapError):
    """A score that could not be had; never replaced by a number."""


class PreflightError(RlcapError):
    """Several reasons for which a run would fail, found before its first stage."""


class RunError(RlcapError):
    """A run that is not going on, or refuses what it was asked for."""


class LeaseLostError(RunError):
    """Another process has taken over what this one was writing to: it writes no more."""


class ActorLostError(RlcapError):
    """A Ray actor that died or stayed silent beyond its time limit."""


class DivergedError(RlcapError):
    """Training of a stage whose loss, gradient or weights are not finite; nothing of it is kept."""


class GuardError(RlcapError):
    """A guard of the learner that stopped a run; no step was published with what it found."""

    def __init__(self, message: str, first_spoilt: int = 0, remedy: str = "") -> None:
        super().__init__(message)
        self.first_spoilt = first_spoilt
        """The first policy version that must not be gone on with."""
        self.remedy = remedy
        """A setting to go on with, as it stands on the command line."""


def in_one_line(error: Exception) -> str:
    """The first two lines of a message as one: torch says what failed, then names one tensor a line."""
    return " ".join(str(error).split("\n")[:2]).replace("\t", "").strip()
