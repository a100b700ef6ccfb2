"""Serves the file named on the command line until a signal comes; what it says goes to standard output."""

import sys
from pathlib import Path

from mizzen import settings
from mizzen.errors import MizzenError
from mizzen.serving import local, spec


def main() -> int:
    file = Path(sys.argv[1])

    def say(text: str) -> None:
        print(text, flush=True)

    try:
        serving = local.start(spec.load(file), settings.current(), say)
    except MizzenError as error:
        say(f"failed: {error}")
        return error.exit_code
    say(f"serving at {serving.url}")
    local.run_until_interrupted(serving, lambda: spec.load(file), say)
    say("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
