"""Answers over HTTP, one module per story; `routers` is all of them in the order of the document."""

from aifn_accounting.api import books, exports, periods, reports, usage_feed, webhooks

routers = [
    usage_feed.router,
    books.router,
    periods.router,
    reports.router,
    exports.router,
    webhooks.router,
]
