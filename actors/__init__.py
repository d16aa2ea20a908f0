"""Caption actors: audio clips in, scored rollouts out."""
