"""The contract: what clients and workers say to each other, and the words they say it in."""
