"""The reference server of the LLM Config Manager platform."""
