"""The main job as cached stages: baseline, CLAP, preferences, reward, PPO, evaluation, report."""
