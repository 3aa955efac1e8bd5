"""ComfyUI as seen through a forwarded port: its HTTP API, its websocket, its state of health."""
