"""The command line starts, and knows the platform's errors."""

import sys

from llm_config_sdk.cli import main

sys.argv = ["llm-config-sdk", "explain", "CONFLICT"]
sys.exit(main())
