"""One connection: bytes in, bytes out, over wsproto and h11; no I/O, no clock."""
