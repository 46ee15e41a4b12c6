"""Runs a student's cells and calls their functions, inside the sandbox.

Requests come as lines of JSON on standard input, replies go to standard output, one
line each. What the student's code does to this process harms only its own answers:
the other side believes nothing but plain data.
"""

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import plain


def main():
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    # Whatever the student prints goes to stderr, which the other side reads and drops.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)

    from IPython.core.interactiveshell import InteractiveShell

    class Shell(InteractiveShell):
        def enable_gui(self, gui=None):
            """There is nothing to open windows on: ``%matplotlib`` may be said."""

    shell = Shell.instance()
    shell.history_manager.enabled = False
    sys.path.remove(os.path.dirname(os.path.abspath(__file__)))

    for line in requests:
        request = json.loads(line)
        try:
            reply = {"value": answer(shell, request)}
        except BaseException as error:  # SystemExit too: the cell ends, not the grading
            reply = {"error": type(error).__name__, "message": str(error)[:2000]}
        reply["id"] = request["id"]
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()


def answer(shell, request):
    """Run a cell, call a function or give a value; values go as encoded text."""
    if "cell" in request:
        result = shell.run_cell(request["cell"], store_history=False)
        error = result.error_before_exec or result.error_in_exec
        if error is not None:
            raise error
        return None
    name = request["name"]
    if name not in shell.user_ns:
        raise NameError(f"{name} is not defined")
    value = shell.user_ns[name]
    if "args" in request:
        args, kwargs = plain.decode(request["args"])
        value = value(*args, **kwargs)
    return plain.encode(value).decode()


if __name__ == "__main__":
    main()
