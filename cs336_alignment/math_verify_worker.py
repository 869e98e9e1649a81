"""The process behind `symbolic.verify_with_math_verify`: reads {"answer", "truth"}, writes {"equal"}; run as a script.

Read next: `confined_process.py`.
"""

import json
import sys


def main() -> None:
    """Answer line by line; the caller keeps the time."""
    import math_verify

    print("ready", flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            gold = math_verify.parse(f"${question['truth']}$", parsing_timeout=None)
            given = math_verify.parse(f"${question['answer']}$", parsing_timeout=None)
            found = bool(math_verify.verify(gold, given, timeout_seconds=None))
        except Exception:  # whatever it does not understand is not equal
            found = False
        print(json.dumps({"equal": found}), flush=True)


if __name__ == "__main__":
    main()
