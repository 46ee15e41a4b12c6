"""Graded notebooks: written here, released to students, graded with one command.

``source/`` holds one notebook per chapter in nbgrader's format, with solutions and
hidden tests. ``release`` makes the students' copies, ``grade`` grades what comes back.
"""
