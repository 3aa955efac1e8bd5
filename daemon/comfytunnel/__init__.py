"""comfytunnel: keeps the SSH tunnel to a rented ComfyUI alive and runs workflows through it.

    from comfytunnel import Client
    Client().run(workflow).save("pictures")

What stands in `__all__` is imported when it is asked for: `import comfytunnel` alone costs nothing, and nothing here imports the daemon.
"""

TYPE_CHECKING = False  # as typing has it, whose import would cost 4 ms; the checkers know the name
if TYPE_CHECKING:
    from comfytunnel.client import Client as Client
    from comfytunnel.client.asynchronous import AsyncClient as AsyncClient
    from comfytunnel.client.asyncjobs import AsyncJob as AsyncJob
    from comfytunnel.client.asyncjobs import AsyncOutput as AsyncOutput
    from comfytunnel.client.jobs import Job as Job
    from comfytunnel.client.jobs import Output as Output
    from comfytunnel.errors import Error as Error
    from comfytunnel.errors import JobCanceledError as JobCanceledError
    from comfytunnel.errors import JobEndedError as JobEndedError
    from comfytunnel.errors import JobExpiredError as JobExpiredError
    from comfytunnel.errors import JobFailedError as JobFailedError
    from comfytunnel.errors import NotFoundError as NotFoundError
    from comfytunnel.errors import NotRunningError as NotRunningError
    from comfytunnel.errors import RefusedError as RefusedError
    from comfytunnel.errors import TimedOutError as TimedOutError
    from comfytunnel.errors import UsageError as UsageError
    from comfytunnel.errors import WorkflowError as WorkflowError

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "AsyncOutput",
    "Client",
    "Error",
    "Job",
    "JobCanceledError",
    "JobEndedError",
    "JobExpiredError",
    "JobFailedError",
    "NotFoundError",
    "NotRunningError",
    "Output",
    "RefusedError",
    "TimedOutError",
    "UsageError",
    "WorkflowError",
]

_MODULES = {
    "AsyncClient": "client.asynchronous",
    "AsyncJob": "client.asyncjobs",
    "AsyncOutput": "client.asyncjobs",
    "Client": "client.blocking",
    "Job": "client.jobs",
    "Output": "client.jobs",
}
"""Where a name stands; all the others in errors.py."""


if not TYPE_CHECKING:  # a checker would take any name for one of ours

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        found: object = getattr(import_module(f"comfytunnel.{_MODULES.get(name, 'errors')}"), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
