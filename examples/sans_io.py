from wsconnkit import ClientHandshake, ServerHandshake, parse_uri

# Two ends of a connection without a socket, an event loop or a clock: `now` is whatever you say it is.
client = ClientHandshake(parse_uri("ws://example.org/chat"), now=0.0)
server = ServerHandshake(now=0.0)
server.receive_data(client.data_to_send(), now=0.0)
server.accept()
client.receive_data(server.data_to_send(), now=0.0)

here, there = client.connection(now=0.0), server.connection(now=0.0)
here.send("hello", now=1.0)
there.receive_data(here.data_to_send(), now=1.1)
print([*there.events()])  # [Message(data='hello', size=5, final=True)]
print(there.next_timer)  # (<Timer.HEARTBEAT: 'heartbeat'>, 31.1)
