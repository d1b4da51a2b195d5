"""Grant types: one file each; every one ends in `oauth.issuer.Issuer.issue`."""
