"""The composition root: actors, reward server and learner, wired into one RLlib algorithm."""
