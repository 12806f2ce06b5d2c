"""A program that says back whatever it was sent, in every shape that servers and proxies have for it."""

import json
import socketserver
import threading

SHAPES = [
    "envelope",
    "details",
    "flat",
    "text",
    "page",
    "page as a success",
    "success",
    "problem",
    "other json",
    "redirect",
    "not modified",
    "raw",
]


class Handler(socketserver.StreamRequestHandler):
    timeout = 30

    def handle(self):
        lines = []
        while line := self.rfile.readline().strip():
            lines.append(line.decode("latin-1"))
        headers = dict(line.split(": ", 1) for line in lines[1:])
        body = self.rfile.read(int(headers.get("Content-Length") or headers.get("content-length") or 0))
        self.wfile.write(answer(self.server.shape, "; ".join(lines), body.decode("latin-1"), headers))


CONFIDENTIAL = ("authorization", "x-api-key", "idempotency-key")
JSON = "application/json"


def answer(shape, head, body, headers):
    """Write one reply: all that was sent in its body, and what was sent in confidence in its headers."""
    said = f"{head} {body}"
    sent = {name.lower(): value for name, value in headers.items()}
    value = next((sent[name] for name in CONFIDENTIAL if name in sent), "")
    page = f"<html><body>{'x' * 460}{said}</body></html>"  # what is kept of a page is cut in the middle of it
    envelope = {"code": "INVALID_REQUEST", "message": said, "details": said, "request_id": value}
    status, kind, text = {
        "envelope": (400, JSON, {"error": envelope}),
        "details": (500, JSON, {"error": {"message": "no", "details": {"kind": said, said: [said]}}}),
        "flat": (401, JSON, {"error": said, "message": said, "request_id": value}),
        "text": (400, "text/plain", said),
        "page": (502, "text/html", page),
        "page as a success": (200, "text/html", page),
        "success": (200, JSON, {"id": said, "value": said}),
        "problem": (403, "application/problem+json", {"title": said, "detail": said}),
        "other json": (503, JSON, {"headers": headers, "body": body}),
        "redirect": (307, "text/plain", said),
        "not modified": (304, "text/plain", ""),
        "raw": (0, "", said),
    }[shape]
    payload = (text if isinstance(text, str) else json.dumps(text)).encode("latin-1", "replace")
    if shape == "raw":
        return payload
    lines = [
        f"HTTP/1.1 {status} X",
        f"Content-Type: {kind}",
        *([f"Content-Length: {len(payload)}"] if payload else []),
        f"X-Request-ID: {value}",
        f"Server: {value}",
        f"Location: http://h/{value}",
        "Connection: close",
        "\r\n",
    ]
    return "\r\n".join(lines).encode() + payload


class EchoServer(socketserver.ThreadingTCPServer):
    """Says back what it is sent, in the shape that is set."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.shape = SHAPES[0]
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *raised):
        self.shutdown()
        self._thread.join()
        self.server_close()
