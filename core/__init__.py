"""The science and the store of DermSlim: no Streamlit, no RQ, no Redis below this folder."""

__version__ = "0.1.0"  # as in pyproject.toml
