"""The Streamlit dashboard; imports `jobs` and `core`, never RQ, Redis or Keras."""
