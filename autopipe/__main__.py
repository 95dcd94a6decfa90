"""``python -m autopipe`` is the command ``autopipe``."""

from __future__ import annotations

from autopipe.cli import main

if __name__ == "__main__":
    main()
