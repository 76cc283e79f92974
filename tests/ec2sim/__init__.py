"""A simulator of EC2 for the tests: what moto cannot show (throttling, tokens, lag, lost answers, capacity).

Read it from the outside in: `process` starts it, `app` speaks HTTP, `world` answers a call, `actions` says who does,
`region` is what an account has in a region. Everything but `app`, `client` and `process` is plain state without I/O.
"""
