"""Drives an envd with E2B's released Python client: see suite.py."""

import command_cases  # noqa: F401, each adds its cases
import file_cases  # noqa: F401
import terminal_cases  # noqa: F401
import url_cases  # noqa: F401
import watch_cases  # noqa: F401
from suite import main

if __name__ == "__main__":
    main()
