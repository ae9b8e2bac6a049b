"""Records in, Plotly figures out: no tensors, no app."""
