"""A plot can be drawn."""

import io

from matplotlib.figure import Figure

figure = Figure()
figure.subplots().plot([1, 2, 3])
drawn = io.StringIO()
figure.savefig(drawn, format="svg")
assert "<svg" in drawn.getvalue()
