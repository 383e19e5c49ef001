"""The process whose predictions are timed: `python -m core.deployment.predictor FILE FORMAT THREADS H W SEED PARENT`.

It imports little, so that its memory is that of the network and its runtime. Each line on standard input is a number of
predictions of one random image; the answer is a line of JSON: wall and CPU seconds of the last one, and the largest
memory so far in bytes, or a sentence where it cannot predict.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from core.deployment.runtimes import classifier
from core.errors import DermSlimError
from core.networks.architectures import CHANNELS, METADATA_FEATURES
from core.processes import die_with_parent, peak_memory


def main() -> None:
    """Answer until standard input ends."""
    path, name, *numbers = sys.argv[1:]
    threads, height, width, seed, parent = map(int, numbers)
    die_with_parent(parent)
    try:
        predict = classifier(Path(path), name, threads)
    except DermSlimError as error:
        print(json.dumps(str(error)), flush=True)
        return
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (1, height, width, CHANNELS), dtype=np.uint8)
    metadata = generator.normal(size=(1, len(METADATA_FEATURES))).astype(np.float32)
    for line in sys.stdin:
        for _ in range(int(line)):
            wall, cpu = time.perf_counter(), time.process_time()
            predict(image, metadata)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps([wall, cpu, peak_memory()]), flush=True)


if __name__ == "__main__":
    main()
