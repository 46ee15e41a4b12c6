"""Write the digits of the network that trains in the page.

    python book/_ext/live_digits.py

The first 200 training examples of ``fl.data.digits()`` and the first 300 test examples,
a letter for a pixel ("A" is 0, "Q" is 16), go to ``book/_static/live_digits.js``.
"""

from pathlib import Path

import flatlab as fl
import torch

TRAIN, TEST = 200, 300
TARGET = Path(__file__).parents[1] / "_static" / "live_digits.js"


def script():
    """The data as a script, for pages that no server serves."""
    data = fl.data.digits(seed=0, standardize=False)
    x = torch.cat([data.train.x[:TRAIN], data.test.x[:TEST]])
    y = torch.cat([data.train.y[:TRAIN], data.test.y[:TEST]])
    grey = (x * 16).round().long().flatten().tolist()
    pixels = "".join(chr(65 + value) for value in grey)
    labels = "".join(map(str, y.tolist()))
    return (
        "// Written by book/_ext/live_digits.py: 200 training and 300 test digits of\n"
        "// scikit-learn's, 64 letters each, from A (0) to Q (16).\n"
        f'globalThis.liveDigits = {{\n  labels: "{labels}",\n'
        f'  pixels: "{pixels}",\n}};\n'
    )


if __name__ == "__main__":
    TARGET.write_text(script(), "utf-8")
