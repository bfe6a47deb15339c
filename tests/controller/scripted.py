"""A controller that is none: it answers on a Unix socket what a test has it answer."""

import contextlib
import http.server
import json
import socket
import threading


class Scripted(http.server.ThreadingHTTPServer):
    """Answers each request with what answer() returns: a status, and a value, or bytes as they are."""
    address_family = socket.AF_UNIX

    def __init__(self, path):
        super().__init__(path, Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def server_bind(self):
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = 'scripted', 0

    def get_request(self):
        return self.socket.accept()[0], ('client', 0)

    def answer(self, method, path, body):
        raise NotImplementedError

    def end(self):
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def handle_any(self):
        text = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        status, value = self.server.answer(self.command, self.path, json.loads(text) if text else None)
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        with contextlib.suppress(OSError):  # who asked may be gone
            self.send_response(status)
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    do_GET = do_POST = do_DELETE = handle_any

    def log_message(self, *_):
        pass
