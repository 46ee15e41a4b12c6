"""Run the notebooks of the book side by side, into the cache that Sphinx reads.

Sphinx by itself runs them one after another. What fails here is left to it: it runs the
notebook again and says where it failed.
"""

import logging
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor

import flatbook


def run(root):
    """Run every notebook that has not been run as it now is.

    Args:
        root: folder of the book's configuration.
    """
    cache = get_cache(root / "_build" / ".jupyter_cache" / flatbook.cache_name(root))
    for path in sorted((root / "book").glob("*.ipynb")):
        cache.add_nb_to_project(str(path))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    executor = load_executor("local-parallel", cache, logging.getLogger())
    executor.run_and_cache(timeout=600)


if __name__ == "__main__":
    run(Path(__file__).parents[2])
