"""An interactive Python session that another process controls through pipes.

Reads one JSON string of code per line. Writes one JSON list per line: the status, 1 after an
exception, and what the code printed. An exception prints its last line as in a terminal.
"""

import contextlib
import io
import json
import sys
import traceback


def main() -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    replies = sys.stdout
    for line in sys.stdin:
        printed, status = io.StringIO(), 0
        with contextlib.redirect_stdout(printed):
            try:
                exec(compile(json.loads(line), "<stdin>", "single"), namespace)
            except Exception as error:
                status = 1
                print("".join(traceback.format_exception_only(error)), end="")
        print(json.dumps([status, printed.getvalue()]), file=replies, flush=True)


if __name__ == "__main__":
    main()
