"""What holds for every test."""

import os

import nbval.plugin

# Coverage is measured in the tests alone. nbval would start it in the notebooks'
# kernels as well, and wait in vain for their answer where tests run in parallel.
nbval.plugin.setup_coverage = lambda *_: None
nbval.plugin.teardown_coverage = lambda *_: None

# A worker takes a file at a time, in this order; what is not named here comes last.
# Many tests look at the built book: it is built while the notebooks run, and they come
# when it stands, the longest of them first.
ORDER = (
    "tests/book/test_build.py",
    "book",
    "tests/assignments",
    "assignments",
    "tests/test_",
    "tests/course",
    "tests/book/test_pages.py",
    "tests/book/test_browser.py",
    "tests/book/test_live_network.py",
    "tests/book",
)


def pytest_collection_modifyitems(config, items):
    def place(item):
        path = os.path.relpath(item.path, config.rootpath).replace(os.sep, "/")
        named = [i for i, start in enumerate(ORDER) if path.startswith(start)]
        return named[0] if named else len(ORDER)

    items.sort(key=place)
