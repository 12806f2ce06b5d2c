"""The typed client for the LLM Config Manager platform."""
