"""Data frames drawn as Plotly figures; nothing here imports Streamlit."""
