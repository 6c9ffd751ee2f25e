"""Node and host checks: a probe, a parser, a verdict, a fix."""
