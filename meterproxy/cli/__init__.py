"""The command line: one small module per noun, each a thin layer over what the service itself calls.

Rules
-----
- Nothing heavy is imported before a command runs: `meterproxy version` answers at once.
- An error is one line that says what to do; exit 2 where the command was wrong, 1 where it failed.
- Results go to standard output, everything else to standard error; `--json` prints one JSON value.
"""
