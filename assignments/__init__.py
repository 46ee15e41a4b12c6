"""Graded notebooks: written here, released to students, graded with one command.

``source/`` holds one notebook per chapter in nbgrader's format, with solutions and
hidden tests. ``release`` makes the students' copies. ``grade`` is the command, and its
rooms are ``collect`` (which file of whom), ``confine`` (the sandbox), ``run`` (a
session in it), ``judge`` (the tests) and ``report`` (tables, pages, exports).
"""
