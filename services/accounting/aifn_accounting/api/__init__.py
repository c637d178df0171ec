"""Answers over HTTP, one module per story; `routers` is all of them in the order of the document."""

from aifn_accounting.api import allocations, books, people, periods, pools, webhooks

routers = [books.router, periods.router, webhooks.router, allocations.router, pools.router, people.router]
