"""A shop whose texts are written by a model that the platform chooses."""
