"""Jobs: what is submitted, queued, run by workers and recorded; never imports Streamlit."""
