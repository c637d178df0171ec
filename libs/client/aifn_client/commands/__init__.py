"""The commands that come with `aifn`, one module for what one service knows."""
