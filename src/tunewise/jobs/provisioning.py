"""Whether a deployment is ready: making one hosts its model at once, and that takes seconds. Runs on the event loop."""

import asyncio
import logging
from typing import Literal, TypeAlias

from tunewise.contracts.jobs import Deployment
from tunewise.jobs.hosting import Hosting
from tunewise.jobs.names import Resolved

Provisioning: TypeAlias = Literal["Creating", "Succeeded", "Failed"]
_log = logging.getLogger("tunewise.hosting")


class Provisioner:
    """The deployments that are being made ready, and those for which that failed.

    Any other has succeeded: after a restart, or after its server has idled away, it is hosted when it is next asked.
    """

    def __init__(self, hosting: Hosting) -> None:
        self._hosting = hosting
        self._under_way: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._failures: set[tuple[str, str]] = set()

    def begin(self, deployment: Deployment, model: Resolved) -> None:
        """Host the deployment's model, and let it be known how that goes."""
        key = (deployment.project, deployment.name)
        self._failures.discard(key)
        task = asyncio.create_task(self._host(model))
        self._under_way[key] = task
        task.add_done_callback(lambda done: self._forget(key, done))

    def state(self, deployment: Deployment) -> Provisioning:
        """How it stands."""
        key = (deployment.project, deployment.name)
        if key in self._under_way:
            return "Creating"
        return "Failed" if key in self._failures else "Succeeded"

    async def close(self) -> None:
        """Give up what is under way."""
        for task in list(self._under_way.values()):
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    async def _host(self, model: Resolved) -> None:
        async with self._hosting.hosted(model):
            pass

    def _forget(self, key: tuple[str, str], done: asyncio.Task[None]) -> None:
        failure = None if done.cancelled() else done.exception()
        if self._under_way.get(key) is not done:
            return
        del self._under_way[key]
        if failure is not None:
            self._failures.add(key)
            _log.warning("deployment %s: %s", key[1], failure)
