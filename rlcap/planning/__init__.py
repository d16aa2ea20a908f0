"""What a run needs, and whether a cluster holds it, before anything starts."""
