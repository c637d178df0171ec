"""Receives a webhook of accounting; checks signatures (RFC 9421, hmac-sha256) with the standard library only.

Usage: AIFN_WEBHOOK_SECRET=... python webhook_receiver.py PORT https://portal.example.eu/aifn

Prints one charge a line. It stands behind whatever ends TLS; the URL is the one that was registered.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer

COVERED = '("@method" "@target-uri" "content-type" "content-digest")'


class Forged(Exception):
    """A letter that accounting did not write, or not now."""


def check(headers: Mapping[str, str], url: str, body: bytes, secret: str, *, now: float) -> None:
    """Return if the letter is genuine; `headers` by lower-case name. Raises Forged."""
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    if headers.get("content-digest", "") != f"sha-256=:{digest}:":
        raise Forged("the body is not the one that was signed")
    name, _, parameters = headers.get("signature-input", "").partition("=")
    if name != "aifn" or not parameters.startswith(COVERED + ";"):
        raise Forged("the signature does not cover what it should")
    said = dict(re.findall(r';([a-z]+)=("[^"]*"|\d+)', parameters[len(COVERED) :]))
    if said.get("alg") != '"hmac-sha256"' or not int(said["created"]) - 60 <= now <= int(said["expires"]):
        raise Forged("the signature is of another kind, or of another time")
    base = "\n".join(
        [
            '"@method": POST',
            f'"@target-uri": {url}',
            f'"content-type": {headers.get("content-type", "")}',
            f'"content-digest": {headers["content-digest"]}',
            f'"@signature-params": {parameters}',
        ]
    )
    wanted = base64.b64encode(hmac.new(secret.encode(), base.encode(), hashlib.sha256).digest()).decode()
    if not hmac.compare_digest(headers.get("signature", ""), f"aifn=:{wanted}:"):
        raise Forged("the signature is not that of the shared secret")


def answer(letter: dict[str, object]) -> dict[str, object]:
    """What to say to a letter. Do the work before you answer: what was answered with 200 is not sent again."""
    if letter["kind"] == "challenge":
        return {"challenge": letter["challenge"]}
    items = letter["items"]
    assert isinstance(items, list)
    for charge in items:
        # A later revision of the same record takes the place of the earlier; the same revision may come twice.
        print(json.dumps(charge), flush=True)
    return {}


def main() -> None:
    """Serve until stopped."""
    port, url = int(sys.argv[1]), sys.argv[2]
    secret = os.environ["AIFN_WEBHOOK_SECRET"]

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(min(int(self.headers.get("content-length", 0)), 4 << 20))
            try:
                headers = {name.lower(): value for name, value in self.headers.items()}
                check(headers, url, body, secret, now=time.time())
            except (Forged, KeyError, ValueError) as wrong:
                self.send_error(401, str(wrong))
                return
            said = json.dumps(answer(json.loads(body))).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

    HTTPServer(("127.0.0.1", port), Receiver).serve_forever()


if __name__ == "__main__":
    main()
