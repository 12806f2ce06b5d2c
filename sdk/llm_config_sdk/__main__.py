"""`python -m llm_config_sdk`: the command line, where the script `llm-config-sdk` is not on the path."""

from __future__ import annotations

from llm_config_sdk.cli import main

if __name__ == "__main__":
    main()
