"""Works of the same authors and year are told apart by a letter, as in 2023a.

The text cites by author and year, and the letters stand in the bibliography too, in
whose order they are given.
"""

from collections import defaultdict

from pybtex.style.sorting.author_year_title import SortingStyle


def label(entry):
    """Authors and year as the text names them, without a letter."""
    names = [" ".join(person.last_names) for person in entry.persons.get("author", [])]
    who = names if len(names) <= 2 else [names[0], "et al."]
    return *who, entry.fields.get("year", "").rstrip("abcdefgh")


def add_letters(app, env, docnames):
    """Put the letters into the years of the entries, before they are written."""
    alike = defaultdict(list)
    entries = env.get_domain("cite").bibdata.data.entries.values()
    for entry in SortingStyle().sort(entries):
        alike[label(entry)].append(entry)
    for (*_, year), entries in alike.items():
        if year and len(entries) > 1:
            for entry, letter in zip(entries, "abcdefgh", strict=False):
                entry.fields["year"] = year + letter


def setup(app):
    """Connect to Sphinx."""
    app.connect("env-before-read-docs", add_letters)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
