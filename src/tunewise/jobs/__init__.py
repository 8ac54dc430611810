"""Use cases: what the command line, the API and the web ask for. Starts processes; never imports what they run."""
