"""Clips from files: decoding, resampling, features, sources, quarantine."""
