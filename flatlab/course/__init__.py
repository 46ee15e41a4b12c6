"""What only the book, its assignments and its study need, on top of ``flatlab``."""

from flatlab.course import explorers, plots, ranks
from flatlab.course.claims import Claims, Verdict, read_registry, read_verdicts
from flatlab.course.store import Rows, stored

__all__ = [
    "Claims",
    "Rows",
    "Verdict",
    "explorers",
    "plots",
    "ranks",
    "read_registry",
    "read_verdicts",
    "stored",
]
