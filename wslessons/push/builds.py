"""The other side of the story: a build system that reports how its deployments go."""

from __future__ import annotations

from typing import Self

import aiohttp

from wslessons.errors import UserError

__all__ = ["Builds"]


class Builds:
    """A client that reports statuses to the fleet at `url`, over one connection kept alive.

    async with Builds("http://127.0.0.1:8000") as builds:
        await builds.report("api", "deploying")

    Args:
        url: of the server, such as ``http://127.0.0.1:8000``.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    async def report(self, service: str, status: str) -> None:
        """Report one status.

        Args:
            service: one of the fleet's.
            status: one of `wslessons.push.fleet.STATUSES`.

        Raises:
            UserError: it was not taken; the sentence has the server's reason.
        """
        body = {"status": status}
        try:
            async with self._session.put(f"/fleet/{service}", json=body) as response:
                if response.status >= 400:
                    raise UserError(f"not reported: {(await response.text()).strip()}")
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise UserError(f"not reported: {exc}. Is the server running?") from None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(self.url)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._session.close()
