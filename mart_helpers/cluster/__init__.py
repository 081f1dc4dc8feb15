"""Lets a Spark Connect server answer the large questions of a session. Imported only if one is named."""
