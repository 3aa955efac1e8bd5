"""A far end of our own, for `comfytunnel demo` and for the tests: an SSH server and a ComfyUI stand-in."""
