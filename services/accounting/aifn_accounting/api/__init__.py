"""Answers over HTTP, one module per story; `routers` is all of them in the order of the document."""

from aifn_accounting.api import books, webhooks

routers = [books.router, webhooks.router]
