"""What the world does to this machine: sleep, wake, another network. Seen here, told to the tunnels, decided on by neither.

Bells carry no meaning: they only ring. world.py then takes a fresh snapshot, compares, and says what changed and why it matters.
"""
