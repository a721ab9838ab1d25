from wsconnkit.testing import Pair

pair = Pair(latency=0.05)
pair.client.send("hello")
pair.advance(1)  # seconds of virtual time; nothing sleeps
print(pair.server.messages)  # ['hello']

pair.client.inbound.stopped = True  # from now on nothing of the server's arrives
pair.server.inbound.stopped = True  # and nothing of the client's
pair.advance(60)
print(pair.server.close_info)  # 1001 … cause heartbeat, handshake incomplete
