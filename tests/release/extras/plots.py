"""A plot can be drawn."""
