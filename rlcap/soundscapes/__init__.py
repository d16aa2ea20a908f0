"""A synthetic world of sound: scenes, the clips that carry them, and the captions that tell them."""
