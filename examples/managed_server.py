import asyncio
import logging
import os

from wsconnkit import (
    AdmissionConfig,
    JSONFormatter,
    JWTAuthenticator,
    RateLimit,
    Rates,
    Request,
    RequestError,
    RequestRouter,
    render_metrics,
)
from wsconnkit.asyncio import serve

router = RequestRouter(timeout=30)  # seconds


@router.action("getData")
async def get_data(request: Request) -> object:
    name = request.payload.get("name")
    if name != "answer":
        raise RequestError("not_found", f"there is no {name!r}")
    principal = request.connection.principal
    assert principal is not None  # nobody else is let in
    return {"user": principal.subject, name: 42}


def per_minute(count: int) -> Rates:
    return Rates(upgrades=RateLimit(count), messages=RateLimit(count))


async def main() -> None:
    server = await serve(
        router,
        "127.0.0.1",
        3001,
        path="/ws",
        authenticate=JWTAuthenticator(secret=os.environ["JWT_SECRET"]),
        origins=["https://app.example.org"],  # for browsers, besides the server's own
        admission=AdmissionConfig(
            max_connections_per_user=3, per_user=per_minute(100), tiers={"premium": per_minute(300)}
        ),
        metrics=render_metrics,  # on /metrics, beside /healthz and /readyz
    )
    print(await server.run_until_signal(window=5, grace=10))  # drained 1 connection in 0.0 s: 1 closed


handler = logging.StreamHandler()
handler.setFormatter(JSONFormatter())
logging.basicConfig(level="INFO", handlers=[handler])
asyncio.run(main())
