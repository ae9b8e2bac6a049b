"""A figure as data (`panels`), drawn by Plotly (`plotly_figure`) or as a small SVG file (`svg`)."""
