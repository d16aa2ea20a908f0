"""Judging captioners: panels, win rates, caption statistics."""
