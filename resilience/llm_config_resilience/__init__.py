"""Resilience strategies, written once for sync, asyncio and trio."""
