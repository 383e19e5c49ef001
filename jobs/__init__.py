"""Jobs: what is submitted, queued, run by workers and recorded; never imports Streamlit.

Importing this package limits BLAS to one thread, before NumPy is loaded: a worker measures one image on one core, and
as many workers run as there are cores.
"""

import os

for _variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
