"""Runs a student's cells and calls their functions, inside the sandbox.

Requests come as lines of JSON on standard input, replies go to standard output, one
line each. What the student's code does to this process harms only its own answers:
the other side believes nothing but plain data.
"""

import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import plain  # noqa: E402


def shell():
    """IPython without what needs a screen or a network."""
    from IPython.core.interactiveshell import InteractiveShell

    class Shell(InteractiveShell):
        def enable_gui(self, gui=None):
            """There is nothing to open windows on."""

        def enable_matplotlib(self, gui=None):
            """Whatever a notebook draws with, nobody sees it here."""
            return None, "Agg"

        def run_line_magic(self, name, line, _stack_depth=1):
            """A magic that is missing or fails here is no reason to lose a cell."""
            try:
                return super().run_line_magic(name, line, _stack_depth=_stack_depth + 1)
            except Exception as error:
                print(f"%{name} does nothing here: {error}")

    made = Shell.instance()
    made.history_manager.enabled = False
    return made


def main():
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    # Whatever the student prints goes to stderr, which the other side reads and drops.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    python = shell()
    sys.path[sys.path.index(HERE)] = ""  # where a notebook's own files are found
    for line in requests:
        request = json.loads(line)
        try:
            reply = answer(python, request)
        except BaseException as error:  # SystemExit too: the cell ends, not the grading
            reply = {"error": type(error).__name__, "message": told(error)}
        reply["id"] = request["id"]
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()


def told(error):
    """The text of an exception, where it has one."""
    try:
        return str(error)[:2000]
    except BaseException as other:
        return f"(its text raises {type(other).__name__})"


def answer(python, request):
    """Run a cell, call a function or give a value; values go as encoded text."""
    if "cell" in request:
        # An earlier cell may have put something else in their place, or nothing.
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        result = python.run_cell(request["cell"], store_history=False)
        error = result.error_before_exec or result.error_in_exec
        if error is not None:
            raise error
        return {"value": None}
    name = request["name"]
    if name not in python.user_ns:
        raise NameError(f"{name} is not defined")
    value, changed = python.user_ns[name], False
    if "args" in request:
        args, kwargs = plain.decode(request["args"])
        value = value(*args, **kwargs)
        value = plain.encode(value).decode()
        try:
            changed = plain.encode((args, kwargs)).decode() != request["args"]
        except plain.NotPlainError:
            changed = True
        return {"value": value, "changed": changed}
    return {"value": plain.encode(value).decode()}


if __name__ == "__main__":
    main()
