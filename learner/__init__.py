"""The learner: scored rollouts in, new policy weights out."""
