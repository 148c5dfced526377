"""A web site on loopback that serves images, and everything else that a link can lead to."""

import http.server
import io

from PIL import Image

from ti_flax.data.sources.links import fetch_image

HTML = b"<!DOCTYPE html><html><head><title>Log\n in</title></head></html>"


def png(shade=0):
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(content, "PNG")
    return content.getvalue()


class Site(http.server.BaseHTTPRequestHandler):
    """Answers by path; what was asked for is in the server's `asked`."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.asked.append(self.path)
        kind, _, rest = self.path.partition("?")[0].strip("/").partition("/")
        answer = getattr(self, f"answer_{kind.partition('.')[0]}", None)
        if answer is None:
            return self.send_error(404)
        return answer(rest)

    def send(self, content, media_type="image/png", announced=None):
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        if announced != "":
            self.send_header("Content-Length", str(announced or len(content)))
        self.end_headers()
        self.wfile.write(content)

    def answer_ok(self, _):
        self.send(png(7), "text/html")

    def answer_page(self, _):
        self.send(HTML, "image/png")

    def answer_text(self, _):
        self.send(b"not here", "text/plain")

    def answer_empty(self, _):
        self.send(b"")

    def answer_large(self, _):
        self.send(bytes(5000))

    def answer_endless(self, _):
        self.send(bytes(5000), announced="")

    def answer_cut(self, _):
        self.send(png()[:40], announced=len(png()))

    def answer_broken(self, _):
        self.send(png()[:-30])

    def answer_slow(self, _):
        self.send_response(200)
        self.end_headers()
        self.server.stopped.wait(5)

    def answer_dribble(self, _):
        self.send_response(200)
        self.end_headers()
        while not self.server.stopped.wait(0.02):
            self.wfile.write(b"x")

    def answer_hop(self, rest):
        left = int(rest)
        self.redirect(f"/hop/{left - 1}" if left else "/ok.png")

    def answer_loop(self, _):
        self.redirect("/loop")

    def answer_away(self, _):
        self.redirect("file:///etc/passwd")

    def redirect(self, target):
        self.send_response(302)
        self.send_header("Location", target)
        self.end_headers()


def fetch(link, **options):
    return fetch_image(link, where=link, allow_private_links=True, **options)
