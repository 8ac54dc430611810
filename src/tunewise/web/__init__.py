"""The studio: pages over the same use cases as the API. Nothing here knows SQL, weights or the wire's objects."""
