"""comfytunnel: keeps the SSH tunnel to a rented ComfyUI alive and runs workflows through it."""

__version__ = "0.1.0"
