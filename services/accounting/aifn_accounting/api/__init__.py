"""Answers over HTTP, one module per story; `routers` is all of them in the order of the document."""

from aifn_accounting.api import (
    allocations,
    books,
    corrections,
    exports,
    people,
    periods,
    pools,
    reports,
    suspense,
    usage_feed,
    webhooks,
)

routers = [
    usage_feed.router,
    books.router,
    suspense.router,
    periods.router,
    reports.router,
    exports.router,
    webhooks.router,
    allocations.router,
    pools.router,
    corrections.router,
    people.router,
]
