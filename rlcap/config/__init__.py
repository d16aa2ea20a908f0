"""Typed, validated settings: Hydra composes them, `load_config` turns them into dataclasses once, at launch."""
