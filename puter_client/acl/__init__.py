"""The users of a shared Redis: their rules, and the file from which Redis reads them."""
