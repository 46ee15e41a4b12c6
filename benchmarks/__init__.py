"""flatlab against its peers and its own floor: ``python -m benchmarks``."""
