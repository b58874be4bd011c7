"""Simulator: an OpenAI-shaped provider with true token counts and faults on request.

It serves demos, tests and benchmarks, and knows nothing of the proxy in front of it: whatever reaches it, a provider
would have seen. What can go wrong on request is the table in `faults`.
"""
