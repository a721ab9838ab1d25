from wsconnkit import Connection, ConnectionClosed, Request, RequestRouter
from wsconnkit.testing import Network, Runtime, run

# What is tested: members join by a request, and have what each of them says.
members: list[Connection] = []
router = RequestRouter()


@router.action("join")
async def join(request: Request) -> object:
    members.append(request.connection)
    return {"members": len(members)}


@router.action("say")
async def say(request: Request) -> object:
    return sum(member.send_nowait(request.payload["text"]) for member in members)


async def main(runtime: Runtime) -> None:
    network = Network(runtime, latency=0.05)  # seconds, each way
    uri = "ws://chat.example.org/"
    async with (
        network.serve(router, "chat.example.org", 80) as server,
        network.connect(uri) as alice,
        network.connect(uri) as bob,
    ):
        await alice.request({"action": "join"})
        print(await bob.request({"action": "join"}))  # {'members': 2}
        await alice.request({"action": "say", "text": "hello"})
        print(await bob.recv())  # hello

        network.links[1].stop()  # nothing of bob's arrives any more, and nothing at him
        silent_since = runtime.now()
        try:
            await bob.recv()
        except ConnectionClosed as closed:
            print(closed.info.cause.value, 40 < runtime.now() - silent_since < 50)  # heartbeat True
        print(len(server.connections))  # 1


run(main, seed=1)  # returns at once
