"""The reward server: scores (clip, caption) pairs behind sharded, versioned actors."""
