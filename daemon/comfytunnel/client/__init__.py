"""The Python client of the control API. The law: what is asked and how an answer reads is written once, without I/O (calls.py, following.py and
protocol.py); a shell only carries bytes. Two shells: blocking.py on http.client, which the CLI uses, and asynchronous.py on httpx.

Nothing of the daemon is imported here: the API is the only thing that the two share. Users write `from comfytunnel import Client, AsyncClient`.
"""

from comfytunnel.client.blocking import Client as Client
