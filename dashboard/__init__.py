"""The Streamlit dashboard; imports `jobs.queues` and `core`, never RQ, Redis or Keras."""
