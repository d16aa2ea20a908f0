"""Sound events by signal processing, one family a file."""
