"""HTTP: thin routes over the use cases of `jobs`. Parses, calls, serialises; no business rule stands here."""
