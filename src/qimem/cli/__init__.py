"""The command line: nouns and verbs, results on stdout, everything else on stderr."""
