"""Benchmarks, one script per question, each beside plain `ssh -L` in the same run on the same machine.

`python -m bench.download`, or `python -m bench` for all of them. README.md says how to read what they print.
"""
