"""Answers over HTTP, one module per story; `routers` is all of them in the order of the document."""

from aifn_accounting.api import books, periods, webhooks

routers = [books.router, periods.router, webhooks.router]
