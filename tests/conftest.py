"""What holds for every test."""

import nbval.plugin

# Coverage is measured in the tests alone. nbval would start it in the notebooks'
# kernels as well, and wait in vain for their answer where tests run in parallel.
nbval.plugin.setup_coverage = lambda *_: None
nbval.plugin.teardown_coverage = lambda *_: None
