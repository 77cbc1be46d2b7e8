"""Just enough HTTP/2 for lines of tests/shows to be clients that no library would let them be."""

import socket
import struct

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS = 1, 4


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def message(body):
    """gRPC's frame around a message: uncompressed, its length."""
    return b"\0" + struct.pack(">I", len(body)) + body


def literal(name, value):  # HPACK: never indexed, no Huffman
    return b"\x10" + bytes([len(name)]) + name + bytes([len(value)]) + value


class Call:
    """One call of conclave.v1.Inference on a connection of its own, begun and not yet given a message."""

    def __init__(self, address, method="Generate", receive_buffer=None):
        host, port = address.rsplit(":", 1)
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        headers = b"".join(literal(name, value) for name, value in [
            (b":method", b"POST"), (b":scheme", b"http"), (b":path", f"/conclave.v1.Inference/{method}".encode()),
            (b":authority", address.encode()), (b"content-type", b"application/grpc"), (b"te", b"trailers")])
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, END_HEADERS, 1, headers))

    def send(self, body):
        self.socket.sendall(frame(DATA, END_STREAM, 1, body))

    def close(self):
        self.socket.close()
