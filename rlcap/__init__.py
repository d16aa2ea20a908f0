"""rlcap: align audio captioners with human preferences, at cluster scale."""

__version__ = "0.1.0"
