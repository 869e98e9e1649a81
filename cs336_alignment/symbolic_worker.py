"""The process behind `symbolic.equal_expressions`: reads {"first", "second"}, writes {"equal"}; run as a script.

Read next: `confined_process.py`.
"""

import contextlib
import json
import sys


def limit_memory(megabytes: int) -> None:
    """No more memory than this for the process, where the system knows such a limit."""
    with contextlib.suppress(ImportError):  # Windows has none
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))


def equal(first: str, second: str) -> bool:
    """Whether sympy finds the difference to be zero."""
    from sympy import simplify
    from sympy.parsing.sympy_parser import (
        implicit_multiplication_application,
        parse_expr,
        standard_transformations,
    )

    rules = (*standard_transformations, implicit_multiplication_application)
    try:
        difference = parse_expr(first, transformations=rules) - parse_expr(second, transformations=rules)
        return bool(simplify(difference) == 0)
    except Exception:  # sympy raises nearly anything for nearly anything: no expression, so not equal
        return False


def main() -> None:
    """Answer line by line."""
    limit_memory(int(sys.argv[1]))
    equal("x + 1", "(2 x + 2) / 2")  # imports what the first question would else wait for
    print("ready", flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            found = equal(question["first"], question["second"])
        except MemoryError:
            found = False
        print(json.dumps({"equal": found}), flush=True)


if __name__ == "__main__":
    main()
