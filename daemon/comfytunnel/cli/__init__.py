"""The command line: a client of the control API, rendered for people or as JSON."""
