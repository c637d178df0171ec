"""Reads every charge there ever was over HTTP, page by page, and goes on from where it stopped the last time.

Usage: AIFN_TOKEN=... python read_pages.py https://accounting.example.eu place.txt

Needs httpx. `place.txt` keeps the place between two runs; without it everything is read from the first record on.
"""

import json
import os
import sys
from pathlib import Path

import httpx


def main() -> None:
    """Read what is new, print it, remember the place."""
    base, place = sys.argv[1], Path(sys.argv[2])
    after = place.read_text().strip() if place.exists() else None
    headers = {"authorization": f"Bearer {os.environ['AIFN_TOKEN']}"}
    with httpx.Client(base_url=base, headers=headers, timeout=30) as http:
        while True:
            params = {"limit": "200"} | ({"after": after} if after else {})
            answer = http.get("/v1/usage-events", params=params)
            answer.raise_for_status()
            page = answer.json()
            for charge in page["items"]:
                print(json.dumps(charge), flush=True)
            if page["next"] is None:  # there is nothing new
                return
            after = page["next"]
            place.write_text(after)


if __name__ == "__main__":
    main()
