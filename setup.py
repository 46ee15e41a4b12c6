"""The one thing that pyproject.toml cannot hold: the source's address.

``FLATLAB_REPOSITORY`` in the environment, else ``repository: url:`` in _config.yml;
where neither is filled in, the package names no address.
"""

import os
import re
from pathlib import Path

from setuptools import setup

config = Path(__file__).with_name("_config.yml").read_text("utf-8")
configured = re.search(r'^repository:\n  url: "?([^"\s]*)', config, re.M).group(1)
url = (os.environ.get("FLATLAB_REPOSITORY") or configured).rstrip("/")
pages = {
    "Source": url,
    "Changelog": f"{url}/blob/main/CHANGELOG.md",
    "Issues": f"{url}/issues",
}
setup(project_urls=pages if url else {})
