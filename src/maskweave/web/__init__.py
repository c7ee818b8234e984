"""The page and the routes: one model in memory, filled through from a browser or over HTTP."""
