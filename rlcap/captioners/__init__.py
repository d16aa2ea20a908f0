"""Captioners: audio features in, caption tokens with exact log-probs out."""
