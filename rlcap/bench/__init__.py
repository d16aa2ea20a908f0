"""Benchmarks: what the parts of a run reach on this machine, beside what they could."""
