"""The science and the store of DermSlim: no Streamlit, no RQ, no Redis below this folder."""
